//go:build tools

// Package provisioner pins the local-path provisioner. It has a module of its own, since it names one of its
// dependencies by an old spelling that can't be built beside the current one.
package provisioner

import _ "github.com/rancher/local-path-provisioner"
