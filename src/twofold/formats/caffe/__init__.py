"""Caffe models: prototxt as a loss-free text tree, caffemodel at the wire level."""
