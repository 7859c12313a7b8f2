//go:build tools

// Package baselines pins the versions of the autoscalers that the benchmark compares with.
// Nothing imports it; the blank imports keep `go mod tidy` from dropping the modules.
// The module k8s.io/apiserver is newer than metrics-server asks for: its own does not compile
// with the newer k8s.io/apimachinery that the autoscaler asks for.
package baselines

import (
	_ "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender"
	_ "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater"
	_ "sigs.k8s.io/metrics-server/cmd/metrics-server"
)
