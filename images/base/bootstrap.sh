#!/bin/sh
# Makes a small Debian 12 with Python as a tar archive of its root filesystem, where no registry has a base image.
#
#   bootstrap.sh OUT.tar WORK_FOLDER [MIRROR]
#
# Needs root and debootstrap. Run it in a mount namespace of its own (unshare --mount), so that whatever it mounts goes
# with it, also when it is killed.
set -eu
out=$1
root=$2/root
mirror=${3:-}

umask 022
debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$root" $mirror

# The mirror of this machine is nobody else's: Debian's own addresses instead.
cat > "$root/etc/apt/sources.list" <<'EOF'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
EOF

# What Debian's slim images do: no documentation or translations now or later, no package caches, no services.
cat > "$root/etc/dpkg/dpkg.cfg.d/slim" <<'EOF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
EOF
cat > "$root/etc/apt/apt.conf.d/slim" <<'EOF'
Acquire::Languages "none";
APT::Install-Recommends "false";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
EOF
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type l -delete
find "$root/usr/share/doc" -type d -empty -delete
for folder in usr/share/info usr/share/locale usr/share/man var/cache/apt var/lib/apt/lists var/log tmp var/tmp; do
    find "$root/$folder" -mindepth 1 -delete
done
rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/etc/machine-id"

# `python` works as well as `python3`, and pip needs no flag to install.
ln -s python3 "$root/usr/bin/python"
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

tar -C "$root" --numeric-owner --sort=name --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -cf "$out" .
