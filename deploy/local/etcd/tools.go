//go:build tools

// Package etcd pins the etcd that the local cluster keeps its state in.
package etcd

import _ "go.etcd.io/etcd/server/v3"
