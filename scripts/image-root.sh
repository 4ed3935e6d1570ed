#!/bin/sh
# Gathers what a program needs to run by itself into a folder that becomes an image:
#
#   scripts/image-root.sh PROGRAM FOLDER
#
# That is the program, the libraries that it is linked with, the authorities that TLS
# trusts, time zones, and a user without rights. The Dockerfile runs it on Debian 12.
set -eu

program=$1
root=$2

mkdir -p "$root/etc/ssl/certs" "$root/usr/share" "$root/tmp"
install -D -m 755 "$program" "$root/usr/local/bin/$(basename "$program")"
# Lines of ldd: `name => path (address)`, and the loader as `path (address)`.
ldd "$program" | sed -n 's/^[^/]*\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp -r /usr/share/zoneinfo "$root/usr/share/zoneinfo"
# getaddrinfo asks files, then DNS.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'patient-notify:x:10001:10001::/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'patient-notify:x:10001:\n' >"$root/etc/group"
chmod 1777 "$root/tmp"
# Where the sandbox writes (compose.yaml).
install -d -o 10001 -g 10001 "$root/var/lib/patient-notify"
