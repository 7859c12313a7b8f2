"""The messages of the Open Inference Protocol over gRPC; `make protos` writes the module from `inference.proto`."""
