// Package kubernetes pins the programs of the one-node cluster that hack/cluster
// makes: the control plane, kubelet and kubectl from the module k8s.io/kubernetes,
// etcd, and agnhost, which the cluster's pods run.
//
// Nothing is compiled from this file; it keeps the versions in go.mod and their
// checksums in go.sum honest. hack/tools builds the programs.

//go:build kubernetes

package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "k8s.io/kubernetes/test/images/agnhost"
	_ "k8s.io/kubernetes/test/images/sample-device-plugin"
)
