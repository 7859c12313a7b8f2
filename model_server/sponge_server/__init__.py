"""The model server: receives Open Inference Protocol requests, orders them by deadline, batches and runs them on lanes.

It is one process with one event loop; only the lane processes import torch.
"""
