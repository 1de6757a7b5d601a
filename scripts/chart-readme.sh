#!/usr/bin/env bash
# Writes the table of settings in charts/pubsub/README.md from values.yaml. With --check it changes nothing and fails if the
# table is not what it would write. It reads values.yaml as the project writes it: a comment of one line or more above each
# key, lists and leaves on one line.
set -euo pipefail

cd "$(dirname "$0")/../charts/pubsub"

table() {
    printf '| setting | default | meaning |\n|---|---|---|\n'
    awk '
        /^ *#/ { sub(/^ *# ?/, ""); comment = comment == "" ? $0 : comment " " $0; next }
        /^ *$/ { comment = ""; next }
        {
            match($0, /^ */); depth = RLENGTH / 2
            key = $0; sub(/^ */, "", key)
            value = key; sub(/^[^:]*: ?/, "", value); sub(/:.*/, "", key)
            path[depth] = key
            name = path[0]; for (i = 1; i <= depth; i++) name = name "." path[i]
            if (comment == "") { printf "values.yaml: %s has no comment\n", name > "/dev/stderr"; failed = 1 }
            gsub(/\|/, "\\|", comment)
            if (value == "") printf "| **`%s`** | | %s |\n", name, comment
            else printf "| `%s` | `%s` | %s |\n", name, value, comment
            comment = ""
        }
        END { exit failed }
    ' values.yaml
}

readme=$(mktemp)
trap 'rm -f "$readme" "$readme.table"' EXIT
table >"$readme.table"
awk -v table="$readme.table" '
    /^<!-- end of settings -->$/ { inside = 0 }
    !inside { print }
    /^<!-- settings: made by scripts\/chart-readme.sh -->$/ {
        inside = 1
        print ""
        while ((getline line < table) > 0) print line
        print ""
    }
' README.md >"$readme"

if [ "${1:-}" = --check ]; then
    cmp -s README.md "$readme" || {
        printf 'charts/pubsub/README.md does not fit values.yaml: run scripts/chart-readme.sh\n' >&2
        exit 1
    }
else
    cat "$readme" >README.md
fi
