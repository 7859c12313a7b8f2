"""Generated modules of the protocol between Envoy and the picker; `make protos` writes them."""
