#!/bin/sh
# Becomes one host's process: it records itself, joins the fleet's cgroups and network, then executes
# "$@" in a mount namespace of its own, so that every mount of a host vanishes with the host.
#
# Environment:
#   TH_PROCESS   where to record the process: its number and start time
#   TH_CGROUPS   the cgroups to join, one directory per line
#   TH_NETNS     the network namespace
#   TH_ROOT      for machines: where to mount the root
#   TH_OVERLAY   for machines: the options of that mount
#   TH_MEMORY    where the state directory cannot hold an upper layer: the host's directory, to be kept in memory
# Standard input is the fleet's lock. It is let go of when the process is on record and in its cgroups, so that
# a destroy after a crash of the creator waits for this moment.
set -eu

# The start time, field 22, tells this process from a later one with the same number. The name in field 2
# may hold anything, so count from the last parenthesis.
stat=$(cat /proc/$$/stat)
stat=${stat##*) }
echo "$$ $(echo "$stat" | cut -d' ' -f20)" > "$TH_PROCESS.new"
mv "$TH_PROCESS.new" "$TH_PROCESS"

echo "$TH_CGROUPS" | while read -r directory; do
    echo $$ > "$directory/cgroup.procs"
done
exec < /dev/null

export TH_ROOT TH_OVERLAY TH_MEMORY
# shellcheck disable=SC2016  # the inner shell expands
exec nsenter --net="$TH_NETNS" unshare --mount --propagation=private sh -ceu '
    if [ -n "$TH_MEMORY" ]; then
        mount -t tmpfs -o mode=700 tmpfs "$TH_MEMORY/root"
        cp -a "$TH_MEMORY/upper" "$TH_MEMORY/work" "$TH_MEMORY/data" "$TH_MEMORY/root"
        mkdir "$TH_MEMORY/root/root"
        mount --move "$TH_MEMORY/root" "$TH_MEMORY"
    fi
    if [ -n "$TH_ROOT" ]; then
        # mount(8) of util-linux 2.39 and later cuts a long lowerdir at 256 bytes unless told to use mount(2).
        LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o "$TH_OVERLAY" testhost "$TH_ROOT"
        # nspawn keeps locks by machine name here; two fleets may well use the same names.
        mkdir -p /run/systemd
        mount -t tmpfs -o mode=755 tmpfs /run/systemd
    fi
    unset TH_PROCESS TH_CGROUPS TH_NETNS TH_ROOT TH_OVERLAY TH_MEMORY
    exec "$@"' sh "$@"
