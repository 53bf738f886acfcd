"""The project's attackers: mutated files for every reader, commands that are killed, disks that are full."""
