"""A Caffe net as a torch module, with Caffe's exact semantics."""
