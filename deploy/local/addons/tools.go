//go:build tools

// Package addons pins what stands around Kubernetes in the local cluster. CoreDNS and the tools share one module, and
// with it one version of the Kubernetes client libraries, so that these are compiled once.
package addons

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
	_ "helm.sh/helm/v3/cmd/helm"
)
