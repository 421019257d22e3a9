// Package clients pins the programs with which orlop is tried from outside:
// crictl and critest, and ginkgo, which runs critest in parallel.
//
// Nothing is compiled from this file; it keeps the versions in go.mod and
// their checksums in go.sum honest. hack/tools builds the programs.

//go:build clients

package clients

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
