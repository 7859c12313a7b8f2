"""The Kubernetes operator: runs the pods of each SpongeService and keeps each at the size that its deadlines need.

`main` is the process, `handlers` are those of kopf, `leadership` lets one of several processes act, `reconcile` runs
each service, `autoscale` sizes each pod, `node` shares a node among pods, `clients` talks to Kubernetes and to the
servers, and `resources` maps SpongeServices to manifests and status. `autoscale` also sizes servers without Kubernetes:
it imports neither kopf nor kubernetes, except in `pod_target`, `pod_controller` and what they import.
"""
