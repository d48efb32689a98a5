#!/bin/sh
# SPDX-License-Identifier: MIT
# Lays a base image's tree out again.
#   unpack.sh ARCHIVE ROOT
set -eu
mkdir "$2"
tar -I 'zstd -d' --numeric-owner --xattrs --xattrs-include='*' -C "$2" -xpf "$1"
