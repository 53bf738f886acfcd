"""Stands in for AMCT's package of the same name; only `tensor_decompose` is provided."""
