#!/bin/sh
# What leaves the preload object: the interposed names, bare of a version so that
# they match any reference, and the library's own, versioned as in libcowfork.so.
# One name more, and a program's own function of that name would be replaced.
#
# SPDX-License-Identifier: MIT
set -u
srcdir=${srcdir:-.}
so=${top_builddir:-.}/lib/.libs/libcowfork-preload.so
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
status=0

command -v nm >/dev/null || { echo "skip: no nm"; exit 77; }
[ -f "$so" ] || { echo "skip: $so was not built (--disable-shared?)"; exit 77; }

same()	# what, file, file
{
	diff -u "$2" "$3" >"$work/diff" && return
	echo "FAIL: $1:"
	sed 1,2d "$work/diff"
	status=1
}

map_names()
{
	sed -n 's/^[[:space:]]*\([A-Za-z_0-9]*\);.*/\1/p' "$1" | sort
}

nm -D --defined-only "$so" | awk '$2 != "A" { print $3 }' | sort >"$work/object"
grep '@' "$work/object" | sed 's/@.*//' >"$work/versioned"
grep -v '@' "$work/object" >"$work/bare"
map_names "$srcdir/src/preload.map" >"$work/map"
map_names "$srcdir/lib/cowfork.map" >"$work/library"
sed -n 's/^INTERPOSED [^(]*[ *]\([A-Za-z_0-9]*\)(.*/\1/p' "$srcdir"/src/preload-*.c |
	sort >"$work/interposed"

[ -s "$work/interposed" ] || { echo "FAIL: the sources interpose nothing"; status=1; }
same "the maps of library and preload object differ" "$work/library" "$work/map"
same "versioned names of the object are not those of src/preload.map" \
	"$work/map" "$work/versioned"
same "bare names of the object are not those that the sources mark INTERPOSED" \
	"$work/interposed" "$work/bare"

# the compiler's start files would have each child that exits copy a page
nm "$so" | grep -E ' (completed(\.[0-9]+)?|_init|_fini)$' >"$work/start" && {
	echo "FAIL: the object is linked with start files:"
	cat "$work/start"
	status=1
}
echo "$(wc -l <"$work/versioned") versioned and $(wc -l <"$work/bare") bare names compared"
exit $status
