"""The model server: receives Open Inference Protocol requests, orders them by deadline, batches and runs them on lanes.

One process with one event loop; torch lives in the lane processes only.
"""
