/*
 * guest_context.c: loading of the library, and its settings.
 *
 * Called by the server when the library is loaded, by whichever session first
 * calls one of our functions or at start by shared_preload_libraries.
 */
#include "postgres.h"

#include <limits.h>

#include "commands/dbcommands.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "freshness.h"
#include "guest_context.h"
#include "planner.h"
#include "launcher.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(gc_require_utf8);

int			gc_max_future_skew = 300;
int			gc_window_memory = 65536;
int			gc_keep_datasets = 2;
int			gc_batch_rows = 100000;
int			gc_batch_bytes = 65536;
int			gc_reader_memory = 262144;
int			gc_workers = 1;
int			gc_dead_letter_limit = 10000;
int			gc_dead_letter_retention = 0;
int			gc_free_space_floor = 256;
bool		gc_ingest_enabled = true;

void		_PG_init(void);

/* Defines the settings and reserves their prefix. */
void
_PG_init(void)
{
	DefineCustomIntVariable("guest_context.max_future_skew",
							"How far a version may lie ahead of the clock.",
							"A record further ahead is refused: nothing could ever replace it.",
							&gc_max_future_skew,
							300, 0, INT_MAX, PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.window_memory",
							"Memory for the map of the window, per statement, entity and process.",
							"A larger window is read through a Bloom filter of this size and index probes.",
							&gc_window_memory,
							65536, 64, MAX_KILOBYTES, PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.keep_datasets",
							"How many datasets that were active before are kept for rollback, per root.",
							NULL,
							&gc_keep_datasets,
							2, 1, 100, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.batch_rows",
							"Most change records that are applied in one transaction.",
							NULL,
							&gc_batch_rows,
							100000, 1, 10000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.batch_bytes",
							"Change records that may be on their way from a reader at a time.",
							NULL,
							&gc_batch_bytes,
							65536, 1024, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.reader_memory",
							"Memory of a reader program.",
							NULL,
							&gc_reader_memory,
							262144, 65536, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.workers",
							"How many workers read the changelogs of an owner at a server.",
							"Each of them reads some of the partitions of each topic, with a reader program of its own.",
							&gc_workers,
							1, 1, GC_MOST_WORKERS, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.dead_letter_limit",
							"Dead letters that a changelog may have waiting before it halts.",
							"0 is no limit.",
							&gc_dead_letter_limit,
							10000, 0, INT_MAX, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.dead_letter_retention",
							"How long dead letters are kept before maintenance discards them.",
							"0 is for ever.",
							&gc_dead_letter_retention,
							0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MIN,
							NULL, NULL, NULL);
	DefineCustomIntVariable("guest_context.free_space_floor",
							"Free space of the WAL and of the data directory below which changelogs wait.",
							"PostgreSQL crashes when it cannot write its WAL.",
							&gc_free_space_floor,
							256, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("guest_context.ingest_enabled",
							 "Whether changelogs are read on this server.",
							 "Off on a copy of a server that must not read what the original reads.",
							 &gc_ingest_enabled,
							 true, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("guest_context");
	gc_read_init();
	gc_key_scan_init();
	gc_truth_scan_init();
	gc_launcher_init();
	gc_freshness_init();
}

void
gc_check_encoding(void)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("guest_context needs a database with the encoding UTF8"),
				 errdetail("The encoding of database \"%s\" is %s; texts of records are UTF-8 and would be stored wrongly.",
						   get_database_name(MyDatabaseId), GetDatabaseEncodingName()),
				 errhint("CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';")));
}

/* _require_utf8() -> void: for the install script */
Datum
gc_require_utf8(PG_FUNCTION_ARGS)
{
	gc_check_encoding();
	PG_RETURN_VOID();
}
