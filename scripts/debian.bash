# Test side: how the fetch scripts get packages of any Debian suite without installing them; sourced.
#
# Expects a function `say`; find_mirror sets `arch`, `mirror` and `security`. Needs apt and dpkg-deb,
# but not root.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The addresses of the package archives that this machine uses, one a line.
archives() {
    local files=()
    shopt -s nullglob
    files=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
    shopt -u nullglob
    sed -n -e 's/^URIs:[[:space:]]*//p' \
        -e 's/^deb[[:space:]]\+\(\[[^]]*\][[:space:]]*\)\?\([^[:space:]]*\).*/\2/p' \
        "${files[@]}" 2>/dev/null | tr ' ' '\n' | sed 's#/*$##' | sort -u
}

# Find out where this machine gets packages from.
find_mirror() {
    arch=$(dpkg --print-architecture 2>/dev/null) && command -v apt-get >/dev/null ||
        { say "this is not a Debian machine"; return 1; }
    mirror=$(archives | grep -E '/debian$' | head -n 1 || true)
    security=$(archives | grep -E '/debian-security(/|$)' | head -n 1 || true)
    [ -n "$mirror" ] || { say "no Debian mirror among apt's sources"; return 1; }
    security=${security:-$mirror-security}
}

# apt's sources for SUITE and for the release whose libraries go with it.
sources_for() {
    local suite=$1 base=${1%%-*} options=
    [ ! -e "$keyring" ] || options="[signed-by=$keyring] "
    echo "deb $options$mirror $base main"
    case $suite in
        "$base") ;;
        *-security) echo "deb $options$security $suite main" ;;
        *) echo "deb $options$mirror $suite main" ;;
    esac
}

# Run apt-get in a world of its own, below WORK. A mirror that lags behind, or a clock that runs
# ahead, is no harm: what is fetched is tested with, not installed. Signatures are checked.
private_apt() {
    local work=$1
    shift
    apt-get -qq \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/empty" \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$work/empty" \
        -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::State::extended_states="$work/extended" -o Dir::Cache="$work/cache" \
        -o Dir::Log="$work" -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
        -o APT::Install-Recommends=0 -o Acquire::Languages=none -o Dpkg::Use-Pty=0 \
        -o Acquire::Check-Valid-Until=false -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 \
        "$@"
}

# Download SUITE's PACKAGE and all that it depends on into WORK/cache/archives.
download() {
    local suite=$1 package=$2 work=$3
    mkdir -p "$work"/{lists/partial,cache/archives/partial,empty}
    : >"$work/status"
    sources_for "$suite" >"$work/sources.list"
    if ! private_apt "$work" update >"$work/log" 2>&1; then
        say "$suite: not reachable: $(grep -m1 -E '^(E|Err)' "$work/log")"
        return 1
    fi
    # The hooks of a container's apt delete what was downloaded: no hooks.
    if ! private_apt "$work" -o APT::Default-Release="$suite" -o DPkg::Post-Invoke::= \
            -o Binary::apt::APT::Keep-Downloaded-Packages=1 -o APT::Keep-Downloaded-Packages=1 \
            -y --download-only install "$package" >"$work/log" 2>&1; then
        say "$suite: $package did not resolve: $(grep -m1 '^E' "$work/log")"
        return 1
    fi
}
