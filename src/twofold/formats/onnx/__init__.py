"""ONNX files as models; needs the extra `onnx`."""
