"""Protocol adapters: REST and gRPC of the Open Inference Protocol, and the HTTP server below them."""
