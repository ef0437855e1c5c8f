#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a Python test; see rehome_py_test in house.bzl.
exec python3 -B "$@"
