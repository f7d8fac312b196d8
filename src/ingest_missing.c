/*
 * ingest_missing.c: why no worker reads a changelog that is to be read, and whether one that is there goes on.
 *
 * For the view of states, which finds out by pg_locks whether the worker of a server and an owner is
 * there. What must be so for one to come is looked at here, in the order in which the worker meets it. One that is
 * there shows in pg_stat_activity whenever it begins something, ends it or waits. Takes no locks and writes nothing.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guest_context.h"
#include "launcher.h"

PG_FUNCTION_INFO_V1(gc_ingest_missing);
PG_FUNCTION_INFO_V1(gc_ingest_heard);

/*
 * _ingest_missing(server text, owner oid, note text) -> text: why there is no worker, and what to run;
 * note: what maintenance has noted about starting it, or NULL.
 */
Datum
gc_ingest_missing(PG_FUNCTION_ARGS)
{
	char	   *server;
	Oid			owner;
	const char *reason;
	char	   *hint = NULL;
	bool		no_slot;
	bool		preloaded;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	server = text_to_cstring(PG_GETARG_TEXT_PP(0));
	owner = PG_GETARG_OID(1);
	preloaded = gc_launcher_preloaded(&no_slot);
	if (RecoveryInProgress())
		reason = "this server is a standby: changelogs are read on the primary";
	else if (GetForeignServerByName(server, true) == NULL)
	{
		reason = psprintf("server \"%s\" does not exist:", server);
		hint = "CREATE SERVER, or SELECT guest_context.drop_changelog(…);";
	}
	else if (!gc_ingest_enabled)
	{
		reason = "guest_context.ingest_enabled is off:";
		hint = "ALTER SYSTEM SET guest_context.ingest_enabled = on; SELECT pg_reload_conf();";
	}
	else if ((reason = gc_worker_obstacle(MyDatabaseId, owner, &hint)) != NULL)
		 /* and its hint */ ;
	else if (no_slot)
		reason = "waiting for a worker slot: raise max_worker_processes, or let others end";
	else if (!PG_ARGISNULL(2))
		reason = text_to_cstring(PG_GETARG_TEXT_PP(2));
	else if (preloaded)
		reason = "no worker reads it now; one is started within a minute";
	else
	{
		reason = "no worker reads it:";
		hint = "SELECT * FROM guest_context.run_maintenance();";
	}
	PG_RETURN_TEXT_P(cstring_to_text(hint ? psprintf("%s\n%s", reason, hint) : reason));
}

/*
 * _ingest_heard(pid integer) -> timestamptz: when a worker has last given a sign of life; NULL: there is no such one, or
 * track_activities is off. It is no secret, while pg_stat_activity shows it to few. As of now, not as of the first look of the
 * transaction at such things.
 */
Datum
gc_ingest_heard(PG_FUNCTION_ARGS)
{
	int32		pid = PG_GETARG_INT32(0);

	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		const PgBackendStatus *status = &gc_local_beentry(i)->backendStatus;

		if (status->st_procpid != pid || status->st_backendType != B_BG_WORKER)
			continue;
		if (status->st_state_start_timestamp == 0)
			break;
		PG_RETURN_TIMESTAMPTZ(status->st_state_start_timestamp);
	}
	PG_RETURN_NULL();
}
