"""Models in int8: written by ONNX Runtime's quantizer, and with fake quantization in training."""
