/*
 * ingest_missing.c: why no worker reads a changelog that is to be read.
 *
 * For the view of states, which finds out by pg_locks whether the worker of a server and an owner is
 * there. What must be so for one to come is looked at here, in the order in which the worker meets it. Takes no
 * locks and writes nothing.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "guest_context.h"
#include "launcher.h"

PG_FUNCTION_INFO_V1(gc_ingest_missing);

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
