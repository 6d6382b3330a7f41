# Sourced by the scripts beside it. Needs ROOT; defines `prepare_venv EXTRAS`, after which $PYTHON is the one to use.
# POSIX sh, because this is what runs on a machine that has nothing but some Python.

python_is_fit() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Every Python on PATH, not only the first of each name: a system's own often lacks ensurepip.
find_python() {
    seen=""
    for name in python3.13 python3.12 python3.11 python3; do
        old_ifs=$IFS
        IFS=:
        for directory in $PATH; do
            candidate=$directory/$name
            [ -x "$candidate" ] || continue
            if python_is_fit "$candidate"; then
                IFS=$old_ifs
                printf '%s\n' "$candidate"
                return 0
            fi
            seen="$seen
    $candidate: $("$candidate" -c 'import sys; print("Python", sys.version.split()[0])' 2>/dev/null || echo "does not run")"
        done
        IFS=$old_ifs
    done
    cat >&2 <<MESSAGE
Error: no Python 3.11 or newer with venv and ensurepip was found on PATH.
  Tried:${seen:- nothing; no python3 is there}
  Install one; on Debian or Ubuntu: apt install python3 python3-venv
MESSAGE
    return 1
}

prepare_venv() {
    trap 'exit 130' INT
    PYTHON=$ROOT/.venv/bin/python
    if python_is_fit "$PYTHON"; then
        "$PYTHON" "$ROOT/scripts/_venv.py" "$1" || exit
    else
        found=$(find_python) || exit 2
        "$found" "$ROOT/scripts/_venv.py" "$1" || exit
    fi
    trap - INT
}
