// The stargz snapshotter as a program of its own, without what its release is configured by, and
// its converter. For tests.
//
//	stargz serve ROOT SOCKET    serves layers from registries on loopback; nothing is read ahead
//	stargz convert TAR TO       makes an eStargz layer of a tar, prints the digest of its TOC
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/service"
	"google.golang.org/grpc"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "serve":
		err = serve(args[1], args[2])
	case len(args) == 3 && args[0] == "convert":
		err = convert(args[1], args[2])
	default:
		err = fmt.Errorf("usage: stargz serve ROOT SOCKET | convert TAR TO")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stargz:", err)
		os.Exit(1)
	}
}

func serve(root, socket string) error {
	settings := &service.Config{Config: config.Config{
		NoPrefetch:        true,
		NoBackgroundFetch: true,
		NoPrometheus:      true,
	}}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, settings)
	if err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

func convert(from, to string) error {
	tar, err := os.Open(from)
	if err != nil {
		return err
	}
	defer tar.Close()
	status, err := tar.Stat()
	if err != nil {
		return err
	}
	blob, err := estargz.Build(io.NewSectionReader(tar, 0, status.Size()))
	if err != nil {
		return err
	}
	defer blob.Close()
	layer, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(layer, blob); err != nil {
		return err
	}
	if err := layer.Close(); err != nil {
		return err
	}
	fmt.Println(blob.TOCDigest())
	return nil
}
