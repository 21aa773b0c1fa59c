#!/bin/sh
# The man pages are free of errors and warnings, and refer to pages that exist.
#
# SPDX-License-Identifier: MIT
set -u
cd "${srcdir:-.}" || exit 99
pages=$(ls lib/*.[37] src/*.1)
status=0

# names that can be referred to: NAME sections, one page or more for each file
names=$(awk '/^\.Dt/ { section = $3 }
	     /^\.Sh/ { name = $2 == "NAME" }
	     name && $1 == ".Nm" { print $2 "(" section ")" }' $pages)
for reference in $(awk '$1 == ".Xr" && $2 ~ /^cow/ { print $2 "(" $3 ")" }' $pages |
		sort -u); do
	case " $(echo $names) " in
	*" $reference "*) ;;
	*) echo "FAIL: no page has the name $reference"; status=1 ;;
	esac
done

if command -v mandoc >/dev/null; then
	echo "checked with mandoc:" $pages
	mandoc -Tlint -Wwarning $pages || status=1
elif command -v man >/dev/null && command -v groff >/dev/null; then
	echo "checked with man:" $pages
	for page in $pages; do
		said=$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -Tutf8 -l "./$page" \
			2>&1 >/dev/null)
		[ -z "$said" ] || { echo "FAIL: $said"; status=1; }
	done
elif [ $status = 0 ]; then
	echo "skip: neither mandoc nor man"
	exit 77
fi
exit $status
