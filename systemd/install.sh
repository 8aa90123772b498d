#!/bin/sh
# Install weightd as a service of this machine, or remove it again: `make install-systemd` and
# `make uninstall-systemd`. Both may be run twice.
#
# PREFIX   the virtual environment to make, or one that is there; /opt/weightd
# DESTDIR  put everything below this folder instead, and touch nothing that runs (for packages)
# WHEEL    what to install; without it the checkout that this script lies in
# PYTHON   what the virtual environment is made of; python3, which must be 3.11 or newer
set -eu

here=$(cd "$(dirname "$0")" && pwd)
PREFIX=${PREFIX:-/opt/weightd}
DESTDIR=${DESTDIR:-}
PYTHON=${PYTHON:-python3}
venv=$DESTDIR$PREFIX
units=$DESTDIR/usr/local/lib/systemd/system
sysusers=$DESTDIR/usr/local/lib/sysusers.d
tmpfiles=$DESTDIR/usr/local/lib/tmpfiles.d
dbus=$DESTDIR/etc/dbus-1/system.d # D-Bus reads nothing below /usr/local
etc=$DESTDIR/etc/weightd
all=$(cd "$here" && echo *.service *.socket)
to_start="weightd.service weightd.socket weightd-attach.socket"

say() { echo "weightd: $*"; }

is_live() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

main() {
    case $PREFIX in
    /*) ;;
    *) say "PREFIX=$PREFIX must begin with /" >&2 && exit 2 ;;
    esac
    case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) say "usage: $0 install|uninstall" >&2 && exit 2 ;;
    esac
}

install_all() {
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    install_package
    install_units
    if is_live; then
        systemd-sysusers "$sysusers/weightd.conf"
        systemd-tmpfiles --create "$tmpfiles/weightd.conf"
        systemctl daemon-reload
    fi
    install -D -m 644 "$here/weightd.dbus.conf" "$dbus/weightd.conf"
    reload_dbus # only now: a rule for a user who is not there is none
    say "installed in $PREFIX; settings are in /etc/weightd/weightd.toml"
    say "start it now and at boot: systemctl enable --now $to_start"
    say "after an upgrade:         systemctl restart weightd"
}

reload_dbus() { ! is_live || systemctl reload dbus.service 2>/dev/null || true; }

install_package() {
    wheel=${WHEEL:-}
    if ! [ -x "$venv/bin/python" ]; then
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            { say "$PYTHON is older than 3.11; name another: PYTHON=/path/to/python3" >&2; exit 2; }
        "$PYTHON" -m venv "$venv"
        touch "$venv/.made-by-weightd"
    fi
    if [ -z "$wheel" ]; then # of a copy: a build leaves files beside what it builds
        mkdir "$scratch/checkout"
        tar -C "$here/.." --exclude=./.git --exclude=./.venv --exclude=./build -cf - . |
            tar -C "$scratch/checkout" -xf -
        pip wheel --no-deps --wheel-dir "$scratch/wheel" "$scratch/checkout"
        wheel=$(echo "$scratch"/wheel/weightd-*.whl)
    fi
    pip install --upgrade "$wheel"
    pip install --force-reinstall --no-deps "$wheel" # what has the same number may be other code
    if [ -n "$DESTDIR" ]; then # scripts name the environment by its path
        grep -rlIF "$venv" "$venv/bin" "$venv/pyvenv.cfg" | xargs sed -i "s|$venv|$PREFIX|g"
        "$venv/bin/python" -m compileall -qf -s "$DESTDIR" "$venv/lib"
    fi
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

install_units() {
    mkdir -p "$units" "$sysusers" "$tmpfiles" "$etc"
    for unit in $all; do
        sed "s|/opt/weightd/|$PREFIX/|" "$here/$unit" >"$scratch/$unit"
        install -m 644 "$scratch/$unit" "$units/$unit"
    done
    if is_live && [ "$(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')" -lt 254 ]; then
        install -D -m 644 "$here/before-254.conf" "$units/weightd.service.d/before-254.conf"
    fi
    install -m 644 "$here/weightd.sysusers" "$sysusers/weightd.conf"
    install -m 644 "$here/weightd.tmpfiles" "$tmpfiles/weightd.conf"
    if [ -e "$etc/weightd.toml" ]; then
        cmp -s "$here/weightd.toml" "$etc/weightd.toml" || {
            install -m 644 "$here/weightd.toml" "$etc/weightd.toml.new"
            say "kept your /etc/weightd/weightd.toml; this version's is beside it, weightd.toml.new"
        }
    else
        install -m 644 "$here/weightd.toml" "$etc/weightd.toml"
    fi
}

uninstall_all() {
    if is_live; then
        # shellcheck disable=SC2086 # each is a word
        systemctl disable --now $all 2>/dev/null || true
        systemctl clean --what=fdstore weightd.service 2>/dev/null || true # the weights
        systemctl reset-failed $all 2>/dev/null || true
    fi
    for unit in $all; do rm -f "$units/$unit"; done
    rm -rf "$units/weightd.service.d"
    rm -f "$sysusers/weightd.conf" "$tmpfiles/weightd.conf" "$dbus/weightd.conf"
    rmdir "$units" "${units%/*}" "$sysusers" "$tmpfiles" 2>/dev/null || true # if they are empty
    if is_live; then
        systemctl daemon-reload
        reload_dbus
        rm -rf /run/weightd
        ! getent passwd weightd >/dev/null || userdel weightd 2>/dev/null
        ! getent group weightd >/dev/null || groupdel weightd
    fi
    rm -f "$etc/weightd.toml.new"
    if [ -e "$etc/weightd.toml" ] && ! cmp -s "$here/weightd.toml" "$etc/weightd.toml"; then
        say "kept your /etc/weightd/weightd.toml"
    else
        rm -f "$etc/weightd.toml"
    fi
    rmdir "$etc" 2>/dev/null || true
    if [ -e "$venv/.made-by-weightd" ]; then
        rm -rf "$venv"
    elif [ -x "$venv/bin/python" ]; then
        pip uninstall --yes weightd
    fi
    say "uninstalled"
}

main "$@"
