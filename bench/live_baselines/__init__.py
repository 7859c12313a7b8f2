"""The real autoscalers beside Sponge: one cluster, one server, one schedule of requests for all of them."""
