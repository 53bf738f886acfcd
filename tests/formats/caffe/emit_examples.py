"""Convolutions and the text that must stand in their place, in several styles."""

# ruff: noqa: E501

from __future__ import annotations

BLOCK = b"""\
name: "n"
# before
layer {
  name: "c"   # the name
  type: "Convolution"
  bottom: "data"
  top: "c"
  # weight
  param { lr_mult: 1 decay_mult: 1 name: "w" }
  # bias
  param { lr_mult: 2 decay_mult: 0 }
  loss_weight: 1 # why
  include { phase: TRAIN }
  convolution_param {
    num_output : 64  # many
    pad : 1
    kernel_size : 3
    stride : 2
    weight_filler { type: "xavier" }
    bias_filler {
      type: "constant" # zero
    }
    engine: CAFFE
    fork_thing : 3
    # last
  }
} # after
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
"""

BLOCK_SPLIT = b"""\
name: "n"
# before
layer {
  name: "c_0"
  type: "Convolution"
  bottom: "data"
  top: "c_0"
  param { lr_mult: 1 decay_mult: 1 name: "w_0" }
  include { phase: TRAIN }
  convolution_param {
    num_output : 6
    bias_term : false
    pad_h : 1
    pad_w : 0
    kernel_h : 3
    kernel_w : 1
    stride_h : 2
    stride_w : 1
    weight_filler { type: "xavier" }
    engine: CAFFE
    fork_thing : 3
  }
}
layer {
  name: "c_1"   # the name
  type: "Convolution"
  bottom: "c_0"
  top: "c"
  # weight
  param { lr_mult: 1 decay_mult: 1 name: "w_1" }
  # bias
  param { lr_mult: 2 decay_mult: 0 }
  loss_weight: 1 # why
  include { phase: TRAIN }
  convolution_param {
    num_output : 64  # many
    pad_h : 0
    pad_w : 1
    kernel_h : 1
    kernel_w : 3
    stride_h : 1
    stride_w : 2
    weight_filler { type: "xavier" }
    bias_filler {
      type: "constant" # zero
    }
    engine: CAFFE
    fork_thing : 3
    # last
  }
} # after
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
"""

#: what -> (before, after)
EXAMPLES = {
    "one line": (
        b"layer{name:'c'type:'Convolution'bottom:'x'top:'y'convolution_param{num_output:8 kernel_size:3}}",
        b"layer{name:'c_0'type:'Convolution'bottom:'x'top:'c_0'"
        b"convolution_param{num_output:6 bias_term:false kernel_h:3 kernel_w:1}} "
        b"layer{name:'c_1'type:'Convolution'bottom:'c_0'top:'y'"
        b"convolution_param{num_output:8 kernel_h:1 kernel_w:3}}",
    ),
    "lines of one layer each, separators": (
        b"layer: < name: 'c'; type: 'Convolution', bottom: 'x'; top: 'y'; loss_weight: 2; "
        b"convolution_param < num_output: 8, pad: 1, kernel_size: [3, 5]; > >;\nlayer: < name: 'z' >\n",
        b"layer: < name: 'c_0'; type: 'Convolution', bottom: 'x'; top: 'c_0'; "
        b"convolution_param < num_output: 6 bias_term: false, pad_h: 1 pad_w: 0, kernel_h: 3 kernel_w: 1; > >\n"
        b"layer: < name: 'c_1'; type: 'Convolution', bottom: 'c_0'; top: 'y'; loss_weight: 2; "
        b"convolution_param < num_output: 8, pad_h: 0 pad_w: 1, kernel_h: 1 kernel_w: 5; > >;\n"
        b"layer: < name: 'z' >\n",
    ),
    "list of layers, list of params": (
        b"layer: [{ name: 'a' }, { name: 'c' type: 'Convolution' bottom: 'x' top: 'y' "
        b"param: [{ lr_mult: 1 }, { lr_mult: 2 }] convolution_param { num_output: 8 kernel_size: 3 } }]",
        b"layer: [{ name: 'a' }, { name: 'c_0' type: 'Convolution' bottom: 'x' top: 'c_0' "
        b"param: [{ lr_mult: 1 }] convolution_param { num_output: 6 bias_term: false kernel_h: 3 kernel_w: 1 } }, "
        b"{ name: 'c_1' type: 'Convolution' bottom: 'c_0' top: 'y' "
        b"param: [{ lr_mult: 1 }, { lr_mult: 2 }] convolution_param { num_output: 8 kernel_h: 1 kernel_w: 3 } }]",
    ),
    "V1": (
        b"layers {\n  name: 'c'\n  type: CONVOLUTION\n  bottom: 'x'\n  top: 'y'\n  param: 'w'\n  param: 'b'\n"
        b"  blob_share_mode: PERMISSIVE\n  blobs_lr: 1\n  blobs_lr: 2\n  weight_decay: [1, 0]\n"
        b"  convolution_param {\n    num_output: 8\n    kernel_size: 3\n  }\n}\n",
        b"layers {\n  name: 'c_0'\n  type: CONVOLUTION\n  bottom: 'x'\n  top: 'c_0'\n  param: 'w_0'\n"
        b"  blob_share_mode: PERMISSIVE\n  blobs_lr: 1\n  weight_decay: [1]\n"
        b"  convolution_param {\n    num_output: 6\n    bias_term: false\n    kernel_h: 3\n    kernel_w: 1\n  }\n}\n"
        b"layers {\n  name: 'c_1'\n  type: CONVOLUTION\n  bottom: 'c_0'\n  top: 'y'\n  param: 'w_1'\n  param: 'b'\n"
        b"  blob_share_mode: PERMISSIVE\n  blobs_lr: 1\n  blobs_lr: 2\n  weight_decay: [1, 0]\n"
        b"  convolution_param {\n    num_output: 8\n    kernel_h: 1\n    kernel_w: 3\n  }\n}\n",
    ),
    "what is a default and not written stays so; dilation, group and bias_term: false": (
        b"layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'y' convolution_param { bias_term: false "
        b"num_output: 8 kernel_h: 3 kernel_w: 3 dilation: 2 group: 1 bias_filler { value: 0 } } }",
        b"layer { name: 'c_0' type: 'Convolution' bottom: 'x' top: 'c_0' convolution_param { bias_term: false "
        b"num_output: 6 kernel_h: 3 kernel_w: 1 dilation: 2 dilation: 1 group: 1 } } "
        b"layer { name: 'c_1' type: 'Convolution' bottom: 'c_0' top: 'y' convolution_param { bias_term: false "
        b"num_output: 8 kernel_h: 1 kernel_w: 3 dilation: 1 dilation: 2 group: 1 bias_filler { value: 0 } } }",
    ),
    "names that need escapes, or are not UTF-8": (
        b"layer { name: \"c\\\"\\\\\xe9\\n\" type: 'Convolution' bottom: 'it\\'s' top: 'y' "
        b"convolution_param { num_output: 8 kernel_size: 3 } }",
        b"layer { name: \"c\\\"\\\\\xe9\\012_0\" type: 'Convolution' bottom: 'it\\'s' top: 'c\"\\\\\xe9\\012_0' "
        b"convolution_param { num_output: 6 bias_term: false kernel_h: 3 kernel_w: 1 } } "
        b"layer { name: \"c\\\"\\\\\xe9\\012_1\" type: 'Convolution' bottom: 'c\"\\\\\xe9\\012_0' top: 'y' "
        b"convolution_param { num_output: 8 kernel_h: 1 kernel_w: 3 } }",
    ),
    "comments within values": (
        b"layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'y' propagate_down: # which\ntrue\n"
        b"convolution_param { num_output: 8 kernel_size: [3, # high\n3] pad_h: 1 pad_w: # wide\n 1 } }\n",
        b"layer { name: 'c_0' type: 'Convolution' bottom: 'x' top: 'c_0' propagate_down:\ntrue\n"
        b"convolution_param { num_output: 6 bias_term: false kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0 } }\n"
        b"layer { name: 'c_1' type: 'Convolution' bottom: 'c_0' top: 'y'  # which\n\n"
        b"convolution_param { num_output: 8 kernel_h: 1 kernel_w: 3 # high\n pad_h: 0 pad_w: 1  # wide\n} }\n",
    ),
    "separators on lines of their own, carriage returns in strings": (
        b"layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'y' loss_weight: 1 # one, or more\n , bias_param { }\n"
        b"convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: # \n 'a\r' # b\n '' } } }\n",
        b"layer { name: 'c_0' type: 'Convolution' bottom: 'x' top: 'c_0' bias_param { }\n"
        b"convolution_param { num_output: 6 bias_term: false kernel_h: 3 kernel_w: 1 weight_filler { type:\n 'a\r'\n '' } } }\n"
        b"layer { name: 'c_1' type: 'Convolution' bottom: 'c_0' top: 'y' loss_weight: 1 # one, or more\n , bias_param { }\n"
        b"convolution_param { num_output: 8 kernel_h: 1 kernel_w: 3 weight_filler { type: # \n 'a\r' # b\n '' } } }\n",
    ),
}
