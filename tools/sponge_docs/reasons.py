"""What every condition, event and decision reason of the operator means, for `conditions.py`."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BLOCKED", "CONDITIONS", "DECISIONS", "EVENTS", "TROUBLES"]

CONDITIONS: Mapping[str, tuple[str, Mapping[tuple[str, str], str]]] = {
    "Ready": (
        "The service answers requests.",
        {
            ("True", "PodsReady"): "As many pods accept requests as `replicas` specifies.",
            ("False", "NoPods"): "No pod exists yet. Look at `kubectl describe deployment NAME`.",
            (
                "False",
                "SecretMissing",
            ): "A Secret that `tls` or `apiKeys` names does not exist or lacks a key, so new pods "
            "cannot start. They start as soon as it is there.",
            ("False", "PodsNotReady"): "A pod is still loading its model, or it is in trouble; the message names it.",
        },
    ),
    "ProfileReady": (
        "The servers know how long their batches take, so they can project their load.",
        {
            ("True", "ProfileKnown"): "Every ready server projects its load.",
            ("False", "ReferenceMissing"): "`profile.configMap` names a ConfigMap or a key that does not exist.",
            ("False", "NoFrontier"): "A server has no latency profile yet. Its size is kept.",
            ("False", "Drifted"): "Batches take much longer or shorter than the profile says. Measure it again with "
            "`sponge profile` on this kind of node.",
            ("Unknown", "NoPods"): "No pod takes requests.",
        },
    ),
    "Planning": (
        "The operator decides sizes.",
        {
            ("True", "Auto"): "Sizes follow the deadlines.",
            ("True", "Recommend"): "Sizes are decided and reported; no pod is changed.",
            (
                "False",
                "Off",
            ): "`mode` is Off. Servers use the size that their pods are given. A container that starts "
            "again at less than its startup size is named.",
            ("False", "Paused"): "The annotation `serving.sponge.dev/paused` is set. Sizes are kept, as with Off.",
            ("False", "StaleState"): "A server does not answer the operator. Its size is kept until it does.",
        },
    ),
    "Resizing": (
        "A resize is under way.",
        {
            ("True", "InFlight"): "The kubelet has not confirmed the new size of a pod yet.",
            ("False", "Settled"): "Every pod has the size that was asked for.",
        },
    ),
    "ResizeBlocked": (
        "A pod does not get the size that it should have.",
        {("False", "NothingBlocked"): "No resize was refused."},
    ),
    "SLOAttained": (
        "The share of requests in time over the last minute meets `slo.target`.",
        {
            ("True", "Attained"): "It does.",
            ("False", "Missed"): "It does not; the message has both numbers.",
            ("Unknown", "NoTraffic"): "No request ended in the last minute.",
        },
    ),
    "Conflict": (
        "Another autoscaler changes the same Deployment.",
        {
            (
                "True",
                "OtherAutoscaler",
            ): "The message names the HorizontalPodAutoscaler or VerticalPodAutoscaler. Delete it "
            "or point it elsewhere.",
            ("False", "None"): "There is none.",
        },
    ),
}
"""What each condition type says, and the meaning of each of its (status, reason) pairs."""

TROUBLES: Mapping[str, str] = {
    "InvalidSpec": "The operator cannot read the spec; the message says why.",
    "ApplyFailed": "The API server refused the Deployment, the Service, the Secret or the ConfigMap of the service.",
}
"""Reasons why the children of a service could not be applied; the condition Ready is then False for that reason."""

BLOCKED: Mapping[str, str] = {
    "Deferred": "The node has no room now. The resize is taken back, and the operator asks for less for a while. Free "
    "the node, or move the pod.",
    "Infeasible": "The node can never grant the size. Lower `cpu.max`, or use a larger node.",
    "ResizeError": "The kubelet tried and failed; the message is the kubelet's.",
    "Timeout": "The size was not in force in time. The operator asks again until it is.",
    "Rejected": "The API server refused the patch. Its own reason stands here where it gives one, for example "
    "`NodeCapacity` or `Forbidden`: a quota, a LimitRange, an admission webhook or a missing right.",
    "RestartPolicy": "The container's `resizePolicy` would restart it. Remove the setting from `spec.template`.",
    "NoLimit": "The container has no CPU limit, so it cannot be resized.",
    "NodeShared": "The services on the node want more cores than it has. The pod gets its part of a joint plan, or it "
    "waits for others to shrink.",
}
"""Reasons of the condition ResizeBlocked."""

EVENTS: Mapping[str, tuple[str, str]] = {
    "Ready": ("Normal", "The condition Ready became True."),
    "SLOMissed": ("Warning", "The condition SLOAttained became False."),
    "InvalidSpec": ("Warning", "The operator cannot read the spec."),
    "ApplyFailed": ("Warning", "The API server refused a child of the service."),
    "Conflict": ("Warning", "Another autoscaler changes the same Deployment."),
    "NodeShared": ("Warning", "A pod lacks cores because its node is shared."),
    "StartupSize": (
        "Normal",
        "A container started again at a small size. It has its startup size until it is ready.",
    ),
    "Resize…": (
        "Warning",
        "A resize is blocked; the rest of the reason is that of the condition ResizeBlocked, for example "
        "`ResizeDeferred`.",
    ),
}
"""Type and meaning of each Kubernetes event."""

DECISIONS: Mapping[str, str] = {
    "grow": "A larger size avoids misses. It is applied at once.",
    "shrink": "The largest size that was needed during `planner.lookBack` is smaller than the present one.",
    "hold": "The present size is right.",
    "overload": "Even the largest size misses deadlines. The pod gets the size and batch cap with the fewest misses.",
    "ceiling": "The load needs more than `cpu.max`, or more than the node is known to have.",
    "infeasible": "The paper's planner finds no size that serves the load in time. The present size is kept.",
    "no-frontier": "The server has no profile yet. The present size is kept.",
    "parked": "No request came for `cpu.idleAfter`. The pod has the size `cpu.idle`.",
    "shared": "Services share the node. This is the pod's part of the joint plan.",
    "waits": "The pod gets more as soon as another pod of the node has shrunk.",
    "NoState": "The server does not answer the operator.",
    "Loading": "The server has not sent its state yet.",
}
"""Reasons of the operator's decisions."""
