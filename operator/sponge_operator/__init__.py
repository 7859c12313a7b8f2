"""The Kubernetes operator: runs a SpongeService's pods and keeps each at the size that its deadlines need.

Handlers (`main`) are thin; `services` do the work; `storage` talks to Kubernetes and to the servers; `builders`,
`resize`, `decision` and `status` are pure. Never imports torch.
"""
