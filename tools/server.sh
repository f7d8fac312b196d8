# tools/server.sh: a throw-away server, for scripts that source this file
# (bash): test/run, examples/demo.sh.
#
#   build_tree VAR=VALUE...   build the extension and the private copy of the
#                             server's installation; sets tree, pgbin, libdir
#   make_work                 a temporary directory: $work. It goes away when the
#                             script ends, with every server under it
#   start_server [COMMAND...] a server with its socket in $work/sock, settings of
#                             $server_conf; PGHOST, PGUSER, ... point at it.
#                             COMMAND is what the postmaster runs under
#   stop_servers              by their pids, Kafka's brokers too
#   forget_server             and the next start_server makes a new one
#   own DIR...                gives files to the user who runs the server
#   "${as_user[@]}" COMMAND   runs something as that user
#
# The server refuses root, so a script that root starts drops to `postgres`, or
# `nobody` where that is missing, for all but building. The sourcing script has
# changed to the root of the source tree.

repo=$PWD
. tools/kafka.sh
: "${PG_CONFIG:=pg_config}" "${KEEP:=}"
unset PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS PGPASSWORD MAKEFLAGS MAKELEVEL MFLAGS
export LC_ALL=C.UTF-8 PGCLIENTENCODING=UTF8 PGTZ=UTC

server_conf=$repo/test/postgresql.conf
work="" tree="" pgbin="" libdir="" server_pid="" launched="" server_user="" as_user=()
if [ "$(id -u)" -eq 0 ]; then
	server_user=nobody
	id postgres >/dev/null 2>&1 && server_user=postgres
	as_user=(runuser -u "$server_user" --)
fi

own() {
	[ -z "$server_user" ] || chown -R "$server_user" "$@"
}

make_work() {
	work=$(mktemp -d /tmp/gc.XXXXXX) && own "$work" && export HOME=$work TMPDIR=$work
}

build_tree() {
	make -s -j2 tree with_llvm=no "$@" || return 1
	tree=$repo/build/pg
	pgbin=$tree$("$PG_CONFIG" --bindir) libdir=$tree$("$PG_CONFIG" --pkglibdir)
	# a clone may lie where the server's user cannot look
	if ! "${as_user[@]}" test -r "$pgbin/postgres" || ! "${as_user[@]}" test -r "$libdir/guest_context.so"; then
		cp -a "$tree" "$work/pg" || return 1
		pgbin=$work/pg${pgbin#"$tree"} libdir=$work/pg${libdir#"$tree"} tree=$work/pg
	fi
}

start_server() {
	local i
	[ -n "$server_pid" ] && return 0
	mkdir "$work/sock" && own "$work/sock"
	"${as_user[@]}" "$pgbin/initdb" -D "$work/data" -U postgres -A trust -N -E UTF8 --locale=C.UTF-8 \
		>"$work/initdb.log" 2>&1 || { cat "$work/initdb.log"; return 1; }
	cat "$server_conf" >>"$work/data/postgresql.conf"
	(cd "$work" && exec setsid "${as_user[@]}" "$@" "$pgbin/postgres" -D "$work/data" -k "$work/sock" \
		>>"$work/server.log" 2>&1 </dev/null) &
	launched=$!
	export PGHOST=$work/sock PGUSER=postgres PGDATABASE=postgres
	for i in $(seq 1200); do
		"$pgbin/pg_isready" -q -t 5 && break
		sleep 0.1
		kill -0 $launched 2>/dev/null || break
	done
	"$pgbin/pg_isready" -q || { cat "$work/server.log"; return 1; }
	server_pid=$(head -n 1 "$work/data/postmaster.pid")
}

# Every server under our directory is ours, the ones that TAP tests start too.
stop_servers() {
	local file pid i
	[ -n "$work" ] || return 0
	for file in $(find "$work" -name postmaster.pid 2>/dev/null); do
		pid=$(head -n 1 "$file")
		[[ $pid =~ ^[0-9]+$ ]] || continue
		kill -INT "$pid" 2>/dev/null || continue
		for i in $(seq 300); do
			kill -0 "$pid" 2>/dev/null || break
			[ "$i" -eq 150 ] && kill -QUIT "$pid" 2>/dev/null
			[ "$i" -eq 300 ] && kill -KILL "$pid" 2>/dev/null
			sleep 0.1
		done
	done
	kafka_stop_all "$work"
	# one that never came so far as to write the file
	[ -n "$launched" ] && kill -KILL -- "-$launched" 2>/dev/null
	launched="" server_pid=""
}

forget_server() {
	stop_servers
	rm -rf "$work/data" "$work/sock" "$work/server.log"
}

clean_up() {
	local status=$?
	trap - EXIT
	stop_servers
	if [ -n "$work" ]; then
		[ ! -d "$work/disks" ] || umount -l "$work"/disks/* 2>/dev/null
		if [ -n "$KEEP" ]; then echo "kept: $work"; else rm -rf "$work"; fi
	fi
	exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
