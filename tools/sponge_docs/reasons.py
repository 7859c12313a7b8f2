"""What every condition, event and decision reason of the operator means, for `conditions.py`."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BLOCKED", "CONDITIONS", "DECISIONS", "EVENTS", "TROUBLES", "WAITS"]

CONDITIONS: Mapping[str, tuple[str, Mapping[tuple[str, str], str]]] = {
    "Ready": (
        "The newest generation of the service answers requests with all of its pods, as for KServe. Where Kubernetes "
        "gives a reason, it stands here as it is: `Unschedulable`, `ErrImagePull`, `CrashLoopBackOff`, `OOMKilled`, "
        "`FailedCreate` and so on. The column REASON of `kubectl get sps` shows it.",
        {
            ("True", "PodsReady"): "As many pods of the newest generation accept requests as `replicas` specifies.",
            ("True", "ScaledToZero"): "No pod is wanted, because no request came for `idle.removeAfter`.",
        },
    ),
    "Available": (
        "A pod answers requests, of whatever generation; like KServe's `PredictorReady`.",
        {
            ("True", "PodsServe"): "At least one pod accepts requests.",
            ("False", "NoPodServes"): "No pod accepts requests.",
        },
    ),
    "Synced": (
        "The operator has carried out the spec.",
        {("True", "Applied"): "Deployment, Service, Secret and ConfigMap are as the spec has them."},
    ),
    "SourceLive": (
        "The pods serve `model.source`. While it changes in place, the former source answers.",
        {
            ("True", "Live"): "Every pod that accepts requests serves it.",
            ("False", "SourceLoading"): "A pod loads it beside the former one; the message says how many pods have it.",
            (
                "False",
                "LoadFailed",
            ): "It cannot be loaded; the message is the server's. The former source serves on. The load is tried again "
            "after 30 s, and later every 5 minutes; another `model.source` is loaded at once.",
            ("False", "SourceUnknown"): "A server has not said yet which source it serves. After half a minute the "
            "pods are replaced.",
            ("False", "RollingOut"): "Pods are replaced until every one serves it; the event `SourceRolls` says why.",
            ("Unknown", "NoPods"): "No pod accepts requests.",
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
            ("False", "StaleState"): "No server answers the operator. Sizes are kept until one does.",
            ("False", "Conflict"): "Another autoscaler changes the same pods. Sizes are kept until it is gone.",
            ("True", "GrowPaused"): "The annotation `serving.sponge.dev/paused` is `grow`: sizes only shrink.",
            ("True", "ShrinkPaused"): "The annotation `serving.sponge.dev/paused` is `shrink`: sizes only grow.",
            (
                "False",
                "PauseInvalid",
            ): "The annotation `serving.sponge.dev/paused` has another value than `true`, `grow`, "
            "`shrink` or `false`. Sizes are kept until it is corrected or removed.",
            (
                "False",
                "MissingRights",
            ): "The operator lacks rights that it needs to resize; the message lists them. Install the "
            "Helm chart again.",
            (
                "False",
                "NoResizeApi",
            ): "The API server has no subresource `pods/resize`. Kubernetes 1.33 or later has it.",
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
            ("False", "NoConflict"): "There is none.",
        },
    ),
    "Scaling": (
        "The number of pods follows the load, between `replicas.min` and `replicas.max`.",
        {
            ("True", "Settled"): "Every pod that is requested serves.",
            ("True", "Starting"): "A pod is requested that does not serve yet; Ready says why, if it takes long.",
            (
                "True",
                "PodsLost",
            ): "A pod that served does not any more. Others are requested where the load needs them.",
            ("True", "AtMax"): "The load needs more pods than `replicas.max`. Raise it, or `cpu.max`.",
            ("True", "Zero"): "No request came for `idle.removeAfter`, and no pod runs.",
            ("False", "Fixed"): "`replicas.min` and `replicas.max` are equal.",
            ("False", "Recommend"): "`mode` is Recommend; the message has the number. Pods stay as they are.",
            ("False", "NotDriven"): "`mode` is Off, or the service is paused. Pods stay as they are.",
            ("False", "Conflict"): "Another autoscaler changes the same Deployment.",
            (
                "False",
                "StaleState",
            ): "A server in service does not answer the operator, or no pod serves. The number is "
            "kept until the load is known.",
        },
    ),
    "NodeFull": (
        "A node has no room for the size that a pod should have.",
        {
            (
                "True",
                "NodeFull",
            ): "The message names nodes and pods. With `replicas.max` above the present number, a pod "
            "on another node follows where the load needs it; while no node has room, it is Pending, for which the "
            "Cluster Autoscaler or Karpenter adds one.",
            ("False", "Room"): "There is no such node.",
        },
    ),
    "FrontReady": (
        "As many fronts take requests as `front.replicas` specifies. Where Kubernetes gives a reason, it stands here "
        "as it is, such as `FailedCreate`; a front that cannot be had has the reason of Synced.",
        {
            ("True", "FrontsReady"): "Every front has the newest template and takes requests.",
            ("False", "RollingOut"): "Not all fronts have the newest template yet, or older ones have not ended.",
            ("False", "FrontsNotReady"): "A front starts, has no node, or its proxy does not answer. Look at "
            "`kubectl describe pods -l serving.sponge.dev/front=NAME`.",
            (
                "False",
                "SecretMissing",
            ): "A Secret that `front.tls` or `tls` names does not exist or lacks a key, so "
            "new fronts cannot start. The Service of the pods is there meanwhile.",
            (
                "False",
                "SecretInvalid",
            ): "The Secret with the front's certificate has no certificate and key that "
            "belong together, or `front.tls.clientCaSecret` has no certificates, so new fronts cannot start; those "
            "that run go on with the former ones.",
            ("False", "NoPods"): "The Deployment of the fronts is being made.",
            ("False", "NoFront"): "The spec has no `front`.",
        },
    ),
}
"""What each condition type says, and the meaning of each of its (status, reason) pairs."""

TROUBLES: Mapping[str, str] = {
    "InvalidSpec": "The operator cannot read the spec; the message says why.",
    "ApplyFailed": "The API server refused the Deployment, the Service, the Secret, the ConfigMap or the front of the "
    "service. It is tried again, ever less often; an edit of the service is tried at once.",
    "NameTaken": "An object of that kind and name exists and is not this service's. It is left alone. Delete or rename "
    "it, or give the service another name.",
    "ViolatesPodSecurity": "`template` asks for more than the operator may hand out; the message names each field. "
    "Change it, or let the operator allow more: `server.templateSecurity` of the chart. Pods that run stay, and are "
    "driven.",
    "FrontRefused": "The service asks for a `front`, and fronts are off in this installation.",
    "ChildLeaving": "An object of a former service of this name has not gone yet. It is made again when it has.",
    "NamespaceTerminating": "The namespace is being deleted. Nothing is tried any more.",
    "InternalError": "The operator met an error that no rule foresaw; its log has the traceback. The pods stay driven.",
}
"""Why the spec could not be carried out: reasons of Synced, and of Ready if the newest spec is concerned."""

WAITS: Mapping[str, str] = {
    "NoPods": "No pod exists yet. Look at `kubectl describe deployment NAME`.",
    "NoState": "The server of a pod does not answer the operator.",
    "Loading": "A server loads its model.",
    "SecretMissing": "A Secret that `tls` or `apiKeys` names does not exist or lacks a key, so new pods cannot start. "
    "They start as soon as it is there.",
    "SecretInvalid": "The Secret that `tls` names has no certificate and key that belong together, so new pods cannot "
    "start. The message says what is wrong.",
    "Draining": "A server answers what it has, and takes no new requests.",
    "RollingOut": "Not all pods have the newest template yet.",
    "NodeNotReady": "The node of a pod no longer reports: it is lost, or its kubelet is. The pod may go on, and is "
    "driven while it answers; Kubernetes replaces it some minutes later.",
    "SourceLoading": "A pod loads a changed `model.source` beside the former one, which answers.",
    "SourceUnknown": "A changed `model.source` waits for a server that has not said which source it serves.",
    "LoadFailed": "A changed `model.source` cannot be loaded; see the condition SourceLive. The former one answers.",
    "ProbeFailing": "A container runs, but its readiness probe fails.",
    "PodEnded": "A pod has ended, and Kubernetes gives no reason.",
    "Unschedulable": "No node takes a pod; the message is the scheduler's.",
    "ContainerCreating": "A container is being made.",
    "OOMKilled": "A container needs more than its memory limit. Raise `memory.base`.",
    "Error": "A container has ended with an error.",
    "FailedCreate": "Pods cannot be created; a quota, most often.",
    "ProgressDeadlineExceeded": "A rollout has not got further for ten minutes.",
}
"""The operator's own reasons of the condition Ready, beside those of Kubernetes."""

BLOCKED: Mapping[str, str] = {
    "Deferred": "The node has no room now. The resize is taken back, and the operator asks for less for a while. Free "
    "the node, or move the pod.",
    "Infeasible": "The node can never grant the size (Kubernetes 1.33 to 1.35): it is too small, so the pod gets the "
    "largest size that it has; or its CPU manager is static, so sizes stay. Lower `cpu.max`, or use a larger node.",
    "NodeCapacity": "The node is smaller than the size (Kubernetes 1.36). The pod gets the largest size that the "
    "node has beside the pod's other containers.",
    "QuotaExceeded": "The ResourceQuota that the message names leaves less. The pod gets the largest size that it "
    "allows; the operator tries again every few seconds.",
    "LimitRange": "A LimitRange of the namespace bounds the size (`kubectl describe limitrange`). The pod gets the "
    "nearest size that it allows; the operator tries again every few seconds.",
    "AdmissionDenied": "The admission webhook or ValidatingAdmissionPolicy that the message names refuses the size. "
    "The operator looks for the nearest size that it lets pass.",
    "Forbidden": "The operator lacks the right to patch `pods/resize`. Install the Helm chart again, or grant it.",
    "NoResizeApi": "The API server has no subresource `pods/resize`. Kubernetes 1.33 or later has it.",
    "ApiServerBusy": "The API server starts, is overloaded or does not answer. The resize is sent again, at "
    "growing intervals.",
    "ResizeError": "The kubelet tried and failed; the message is the kubelet's.",
    "Timeout": "The size was not in force in time. The operator asks again until it is.",
    "Rejected": "The API server refused the patch for another reason, which the message tells.",
    "RestartPolicy": "The container's `resizePolicy` would restart it. Remove the setting from `spec.template`.",
    "NoLimit": "The container has no CPU limit, so it cannot be resized.",
    "NodeShared": "The services on the node want more cores than it has. The pod gets its part of a joint plan, or it "
    "waits for others to shrink.",
}
"""Reasons of the condition ResizeBlocked."""

EVENTS: Mapping[str, tuple[str, str]] = {
    "Applied": ("Normal", "The condition Synced became True."),
    "Ready": ("Normal", "The condition Ready became True."),
    "NotReady": ("Warning", "The condition Ready has another reason; Normal where every start passes through it."),
    "SLOMissed": ("Warning", "The condition SLOAttained became False."),
    "InvalidSpec": ("Warning", "The operator cannot read the spec."),
    "ApplyFailed": ("Warning", "The API server refused a child of the service."),
    "NameTaken": ("Warning", "An object of a child's name is not this service's."),
    "ViolatesPodSecurity": ("Warning", "`template` breaks the Pod Security level that the operator keeps to."),
    "InternalError": ("Warning", "The operator met an error that no rule foresaw."),
    "Conflict": ("Warning", "Another autoscaler changes the same Deployment."),
    "NodeShared": ("Warning", "A pod lacks cores because its node is shared."),
    "ScaledOut": ("Normal", "More pods are requested; the message says why."),
    "ScaledIn": ("Normal", "One pod less is requested. It answers what it has before it ends."),
    "ReplicasAtMax": ("Warning", "The load needs more pods than `replicas.max`."),
    "NodeFull": ("Warning", "The condition NodeFull became True."),
    "StartupSize": (
        "Normal",
        "A container started at less than its startup size. It has that size until it is ready.",
    ),
    "SourceLoading": ("Normal", "A pod loads a changed `model.source` beside the former one."),
    "SourceLive": ("Normal", "Every pod serves the changed `model.source`, and none was replaced."),
    "SourceRolls": ("Normal", "The pods are replaced for a changed `model.source`; the message says why."),
    "LoadFailed": ("Warning", "A changed `model.source` cannot be loaded; the former one serves on."),
    "MemoryResizeBlocked": (
        "Warning",
        "A new memory limit was refused, or taken back because the kubelet did not carry it out.",
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
    "infeasible": "The paper's planner finds no size that serves the load in time. The present size is kept.",
    "ceiling": "The load needs more than `cpu.max`, or more than is known to be possible; see ResizeBlocked.",
    "floor": "The load needs less than is known to be possible; see ResizeBlocked.",
    "grow-paused": "A larger size is wanted; the annotation `serving.sponge.dev/paused` is `grow`.",
    "shrink-paused": "A smaller size would do; the annotation `serving.sponge.dev/paused` is `shrink`.",
    "cooldown": "Another size is wanted, but `cpu.growCooldown` or `cpu.shrinkCooldown` has not passed.",
    "max-grow": "A larger size is wanted; the pod gets there in steps of `cpu.maxGrow`.",
    "no-frontier": "The server has no profile yet. The present size is kept.",
    "parked": "No request came for `cpu.idleAfter`. The pod has the size `cpu.idle`.",
    "shared": "Services share the node. This is the pod's part of the joint plan.",
    "waits": "The pod gets more as soon as another pod of the node has shrunk.",
    "NoState": "The server does not answer the operator.",
    "Loading": "The server has not sent its state yet.",
}
"""Reasons of the operator's decisions."""
