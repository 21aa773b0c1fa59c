#!/bin/sh
# The differential test with the in-place engine: all programs that differed once, and as
# many seeds as fit the time. SEEDS=1-2000 LIMIT=600 by hand takes longer.
#
# SPDX-License-Identifier: MIT
set -u
exec "${top_builddir:-.}/tests/diff-random" --engine in-place \
	--cases "${srcdir:-.}/tests/diff-cases" \
	--seeds "${SEEDS:-1-300}" --limit "${LIMIT:-20}"
