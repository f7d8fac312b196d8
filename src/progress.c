/*
 * progress.c: pg_stat_progress_guest_context.
 *
 * Every backend has a slot for the progress of its command, which the server
 * clears when a transaction aborts. We publish in it under a command number of our
 * own, which no view of the server asks for, and our view reads the slots of
 * all backends. No shared memory of ours is needed, so it works without
 * shared_preload_libraries.
 *
 * Commands inside ours (CREATE INDEX, ANALYZE) take the slot over and clear it when
 * they end; the next update takes it back.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/backend_progress.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"

#include "compat.h"
#include "progress.h"

PG_FUNCTION_INFO_V1(gc_stat_progress);

/* Far from the numbers that the server gives to its own commands. */
#define OUR_COMMAND ((ProgressCommandType) 0x6763)

/* What stands in the slot's parameters. */
enum
{
	PARAM_KIND, PARAM_DATASET, PARAM_DONE, PARAM_TOTAL, PARAM_COUNT
};

static const char *const kind_names[] = {"load", "seal", "build", "replay", "diff"};

/* What this process shows, to show it again. */
static struct
{
	Oid			view;
	int64		params[PARAM_COUNT];
}			shown;

static void
show(void)
{
	static const int index[] = {PARAM_KIND, PARAM_DATASET, PARAM_DONE, PARAM_TOTAL};

	pgstat_progress_start_command(OUR_COMMAND, shown.view);
	pgstat_progress_update_multi_param(PARAM_COUNT, index, shown.params);
}

void
gc_progress_start(GcProgressKind kind, int64 dataset_id, Oid view)
{
	memset(&shown, 0, sizeof(shown));
	shown.view = view;
	shown.params[PARAM_KIND] = kind;
	shown.params[PARAM_DATASET] = dataset_id;
	show();
}

void
gc_progress_update(int64 done, int64 total)
{
	shown.params[PARAM_DONE] = done;
	shown.params[PARAM_TOTAL] = total;
	if (MyBEEntry != NULL && MyBEEntry->st_progress_command == OUR_COMMAND)
	{
		pgstat_progress_update_param(PARAM_DONE, done);
		pgstat_progress_update_param(PARAM_TOTAL, total);
	}
	else
		show();
}

void
gc_progress_end(void)
{
	pgstat_progress_end_command();
}

/*
 * _stat_progress() -> setof record: one row per process that shows something. Only
 * that it does, not what, to those who may not read statistics of its role.
 */
Datum
gc_stat_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int			count = pgstat_fetch_stat_numbackends();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 1; i <= count; i++)
	{
		LocalPgBackendStatus *local = gc_backend_status(i);
		PgBackendStatus *status;
		Datum		values[7];
		bool		nulls[7] = {false, false, true, true, true, true, true};
		int64		kind;

		if (local == NULL || local->backendStatus.st_progress_command != OUR_COMMAND)
			continue;
		status = &local->backendStatus;
		values[0] = Int32GetDatum(status->st_procpid);
		values[1] = ObjectIdGetDatum(status->st_databaseid);
		if (has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
			has_privs_of_role(GetUserId(), status->st_userid))
		{
			memset(nulls, false, sizeof(nulls));
			kind = status->st_progress_param[PARAM_KIND];
			values[2] = CStringGetTextDatum(kind >= 0 && kind < lengthof(kind_names) ?
											kind_names[kind] : "?");
			values[3] = Int64GetDatum(status->st_progress_param[PARAM_DATASET]);
			nulls[3] = status->st_progress_param[PARAM_DATASET] == 0;
			values[4] = ObjectIdGetDatum(status->st_progress_command_target);
			values[5] = Int64GetDatum(status->st_progress_param[PARAM_DONE]);
			values[6] = Int64GetDatum(status->st_progress_param[PARAM_TOTAL]);
			nulls[6] = status->st_progress_param[PARAM_TOTAL] == 0;
		}
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
