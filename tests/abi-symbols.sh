#!/bin/sh
# The library's names are told in four places: what the built library exports,
# the linker's map, the header, the NAME sections of the man pages. All the same.
#
# SPDX-License-Identifier: MIT
set -u
srcdir=${srcdir:-.}
so=${top_builddir:-.}/lib/.libs/libcowfork.so
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT

command -v nm >/dev/null || { echo "skip: no nm"; exit 77; }
[ -f "$so" ] || { echo "skip: $so was not built (--disable-shared?)"; exit 77; }

nm -D --defined-only "$so" |
	awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$work/library"

sed -n 's/^[[:space:]]*\([a-z_0-9]*\);.*/\1/p' "$srcdir/lib/cowfork.map" |
	sort >"$work/map"

# one declaration a line, without comments and preprocessor lines
${CC:-cc} -E -P "$srcdir/include/cowfork.h" | tr '\n' ' ' | tr ';' '\n' |
	grep -v typedef | grep -o 'cow_[a-z_0-9]*(' | tr -d '(' | sort >"$work/header"

awk '/^\.Sh/ { name = $2 == "NAME" } name && $1 == ".Nm" { print $2 }' \
	"$srcdir"/lib/*.3 | sort >"$work/man"

status=0
[ -s "$work/library" ] || { echo "FAIL: nothing is exported"; status=1; }
for other in map header man; do
	if ! diff -u "$work/library" "$work/$other" >"$work/diff"; then
		echo "FAIL: the library exports other names than the $other lists:"
		sed 1,2d "$work/diff"
		status=1
	fi
done
echo "$(wc -l <"$work/library") names compared"
exit $status
