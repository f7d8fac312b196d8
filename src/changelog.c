/*
 * changelog.c: changelogs in the catalogue, and the verbs that make, change, stop and
 * drop them.
 *
 * Every verb is transactional: it changes rows, and at its commit maintenance of the owner
 * is woken, which starts the ingest worker if none runs; a worker that runs looks at
 * the rows every half second. A changelog runs where guest_context._changelog_state says so for this
 * very database: a dump does not carry that table, and in a copy of a database it names
 * another one, so copies come up paused.
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "common/time_text.h"
#include "compat.h"
#include "dataset.h"
#include "freshness.h"
#include "guest_context.h"
#include "launcher.h"
#include "rows.h"
#include "server_options.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_create_changelog);
PG_FUNCTION_INFO_V1(gc_alter_changelog);
PG_FUNCTION_INFO_V1(gc_drop_changelog);
PG_FUNCTION_INFO_V1(gc_pause);
PG_FUNCTION_INFO_V1(gc_resume);
PG_FUNCTION_INFO_V1(gc_seek);

/*
 * Reading the catalogue
 */

/* Changelogs by a condition of one parameter; entities are looked up by the caller. */
static List *
fetch(const char *condition, Oid type, Datum value, Oid type2, Datum value2)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[3] = {OIDOID, type, type2};
	Datum		values[3] = {ObjectIdGetDatum(MyDatabaseId), value, value2};
	List	   *found = NIL;
	List	   *entity_ids = NIL;
	ListCell   *lc;

	SPI_connect();
	gc_catalog_execute(psprintf("SELECT c.*, coalesce(c.mapping, e.mapping) AS used_mapping,"
								" pg_catalog.concat(c.xmin, '/', e.xmin) AS row_version,"
								" s.database IS DISTINCT FROM $1 OR s.paused AS stopped,"
								" coalesce(s.halted, false) AS halted, CASE WHEN s.waiting THEN s.reason END AS waits_for,"
								" coalesce(s.worker, 0) AS worker, coalesce(s.changes, 0) AS changes"
								" FROM guest_context._changelog c"
								" JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id"
								" JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) e.versions"
								" LEFT JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
								" WHERE %s ORDER BY c.changelog_id", condition),
					   OidIsValid(type2) ? 3 : 2, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		MemoryContext spi = MemoryContextSwitchTo(caller);
		GcChangelog *changelog = palloc0(sizeof(GcChangelog));

		changelog->changelog_id = DatumGetInt32(gc_catalog_value(row, "changelog_id", 0));
		changelog->name = gc_catalog_text(row, "name");
		changelog->server = gc_catalog_text(row, "server");
		changelog->topic = gc_catalog_text(row, "topic");
		changelog->envelope = strcmp(gc_catalog_text(row, "envelope"), "debezium") == 0 ?
			GC_ENVELOPE_DEBEZIUM : GC_ENVELOPE_PLAIN;
		changelog->mapping = gc_catalog_text(row, "used_mapping");
		changelog->filter = gc_catalog_text(row, "filter");
		changelog->dead_letters = strcmp(gc_catalog_text(row, "on_error"), "halt") != 0;
		changelog->start = gc_catalog_text(row, "start");
		changelog->source = DatumGetInt32(gc_catalog_value(row, "source", 0));
		changelog->row_version = gc_catalog_text(row, "row_version");
		changelog->generation = DatumGetInt32(gc_catalog_value(row, "generation", 0));
		changelog->paused = DatumGetBool(gc_catalog_value(row, "stopped", 0));
		changelog->halted = DatumGetBool(gc_catalog_value(row, "halted", 0));
		changelog->waits_for = gc_catalog_text(row, "waits_for");
		changelog->worker = DatumGetInt32(gc_catalog_value(row, "worker", 0));
		changelog->changes = DatumGetInt32(gc_catalog_value(row, "changes", 0));
		found = lappend(found, changelog);
		entity_ids = lappend_int(entity_ids, DatumGetInt32(gc_catalog_value(row, "entity_id", 0)));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	foreach(lc, found)
		((GcChangelog *) lfirst(lc))->entity = gc_entity_by_id(list_nth_int(entity_ids, foreach_current_index(lc)));
	return found;
}

GcChangelog *
gc_changelog_get(const char *name)
{
	List	   *found = fetch("c.name OPERATOR(pg_catalog.=) $2", TEXTOID, CStringGetTextDatum(name),
							  InvalidOid, (Datum) 0);

	if (found == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("changelog \"%s\" does not exist", name),
				 errhint("SELECT changelog, entity FROM guest_context.changelog;")));
	return linitial(found);
}

List *
gc_changelogs_at(Oid owner, const char *server)
{
	return fetch("t.relowner OPERATOR(pg_catalog.=) $2 AND c.server OPERATOR(pg_catalog.=) $3"
				 " AND s.database OPERATOR(pg_catalog.=) $1 AND NOT s.paused AND NOT s.halted",
				 OIDOID, ObjectIdGetDatum(owner), TEXTOID, CStringGetTextDatum(server));
}

List *
gc_changelog_servers(Oid owner)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2] = {ObjectIdGetDatum(owner), ObjectIdGetDatum(MyDatabaseId)};
	List	   *servers = NIL;

	SPI_connect();
	gc_catalog_execute("SELECT DISTINCT c.server FROM guest_context._changelog c"
					   " JOIN guest_context._changelog_state s ON s.changelog_id OPERATOR(pg_catalog.=) c.changelog_id"
					   " JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id"
					   " JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) e.versions"
					   " WHERE t.relowner OPERATOR(pg_catalog.=) $1 AND s.database OPERATOR(pg_catalog.=) $2"
					   " AND NOT s.paused AND NOT s.halted", 2, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		servers = lappend(servers, gc_catalog_text(SPI_tuptable->vals[i], "server"));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return servers;
}

GcMappingSpec *
gc_changelog_spec(const GcChangelog *changelog)
{
	GcMappingSpec *spec = gc_entity_spec(changelog->entity);

	spec->mapping = changelog->mapping;
	spec->filter = changelog->filter;
	spec->envelope = changelog->envelope;
	return spec;
}

bool
gc_changelog_note(int32 changelog_id, int worker, GcHalt halt, int32 partition, int64 offset,
				  const char *reason, const char *hint)
{
	static const char *const kinds[] = {NULL, "record", "loss", "topic", "other"};
	Oid			types[11] = {INT4OID, BOOLOID, BOOLOID, INT4OID, INT8OID, TEXTOID, TEXTOID, OIDOID, TEXTOID, INT4OID, INT4OID};
	Datum		values[11] = {Int32GetDatum(changelog_id), BoolGetDatum(halt != GC_HALT_NONE),
		BoolGetDatum(halt == GC_HALT_NONE && reason != NULL), Int32GetDatum(partition), Int64GetDatum(offset),
		reason ? CStringGetTextDatum(reason) : (Datum) 0, hint ? CStringGetTextDatum(hint) : (Datum) 0,
		ObjectIdGetDatum(MyDatabaseId), kinds[halt] ? CStringGetTextDatum(kinds[halt]) : (Datum) 0,
	Int32GetDatum(worker), Int32GetDatum(gc_workers)};
	char		nulls[12] = "           ";
	bool		written;

	nulls[3] = partition < 0 ? 'n' : ' ';
	nulls[4] = offset < 0 ? 'n' : ' ';
	nulls[5] = reason == NULL ? 'n' : ' ';
	nulls[6] = hint == NULL ? 'n' : ' ';
	nulls[8] = kinds[halt] == NULL ? 'n' : ' ';
	/* a worker that is no more clears nothing, so everybody may */
	SPI_connect();
	gc_catalog_execute("UPDATE guest_context._changelog_state SET halted = $2, waiting = $3, partition = $4,"
					   " record_offset = $5, reason = $6, hint = $7, kind = $9, lost = NULL, worker = $10, since = pg_catalog.clock_timestamp()"
					   " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND database OPERATOR(pg_catalog.=) $8"
					   " AND NOT paused AND NOT halted"
					   " AND ($2 OR NOT waiting OR worker OPERATOR(pg_catalog.=) $10 OR worker OPERATOR(pg_catalog.>=) $11)"
					   " AND ROW(halted, waiting, partition, record_offset, reason) IS DISTINCT FROM ROW($2, $3, $4, $5, $6)",
					   11, types, values, nulls, SPI_OK_UPDATE);
	written = SPI_processed > 0;
	SPI_finish();
	return written;
}

void
gc_changelog_note_deletes(const GcChangelog *changelog, TimestampTz since)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._changelog_state SET deletes_unproven_since = least(deletes_unproven_since, $3)"
				   " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND database OPERATOR(pg_catalog.=) $2", 3,
				   INT4OID, Int32GetDatum(changelog->changelog_id), OIDOID, ObjectIdGetDatum(MyDatabaseId),
				   TIMESTAMPTZOID, TimestampTzGetDatum(since));
}

/*
 * Where to start
 */

static void
bad_start(const char *text, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is no position in a topic", text),
			 errdetail("%s", why),
			 errhint("It is earliest, latest, a time with a zone, or offsets by partition: 0:123,1:99.")));
}

/* "0:123,1:99" */
static void
parse_offsets(const char *text, GcStart *start)
{
	const char *at = text;
	int			room = strlen(text) / 2 + 1;

	start->kind = GC_START_OFFSETS;
	start->partitions = palloc(sizeof(int32) * room);
	start->offsets = palloc(sizeof(int64) * room);
	for (;;)
	{
		char	   *end;
		long		partition = strtol(at, &end, 10);
		long long	offset;

		if (end == at || *end != ':' || partition < 0 || partition > PG_INT32_MAX)
			bad_start(text, "A partition is a number, followed by a colon.");
		at = end + 1;
		errno = 0;
		offset = strtoll(at, &end, 10);
		if (end == at || errno != 0 || offset < 0)
			bad_start(text, "An offset is a number from 0 on.");
		for (int i = 0; i < start->noffsets; i++)
			if (start->partitions[i] == partition)
				bad_start(text, "It names a partition twice.");
		start->partitions[start->noffsets] = partition;
		start->offsets[start->noffsets++] = offset;
		if (*end == '\0')
			return;
		if (*end != ',')
			bad_start(text, "Partitions are separated by commas.");
		at = end + 1;
	}
}

void
gc_start_parse(const char *text, GcStart *start)
{
	memset(start, 0, sizeof(*start));
	if (pg_strcasecmp(text, "earliest") == 0)
		start->kind = GC_START_EARLIEST;
	else if (pg_strcasecmp(text, "latest") == 0)
		start->kind = GC_START_LATEST;
	else if (strspn(text, "0123456789:,") == strlen(text) && strchr(text, ':') != NULL)
		parse_offsets(text, start);
	else
	{
		/* as strict as a record's: the worker reads it again, at a later time and in another time zone */
		GcTimeRule	rule = {.unit = GC_UNIT_ISO8601};
		bool		range;
		const char *why = gc_time_parse(text, strlen(text), &rule, GC_KIND_TIMESTAMPTZ, &start->time_us, &range);

		if (why != NULL)
			bad_start(text, psprintf("It is not a time: %s.", why));
		start->kind = GC_START_TIME;
	}
}

/*
 * The verbs
 */

static void
check_name(const char *name)
{
	if (*name == '\0' || strlen(name) > 4 * NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a changelog"),
				 errdetail("It has 1 to %d bytes.", 4 * NAMEDATALEN)));
	for (const char *p = name; *p; p++)
		if ((unsigned char) *p < 0x20 || *p == 0x7F)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid name of a changelog"),
					 errdetail("It has a control character.")));
}

static void
check_choice(const char *what, const char *value, const char *one, const char *other)
{
	if (strcmp(value, one) != 0 && strcmp(value, other) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s \"%s\"", what, value),
				 errhint("It is \"%s\" or \"%s\".", one, other)));
}

/* The server is one of ours, and the entity's owner may use it. */
void
gc_changelog_check_server(const GcEntity *entity, const char *name)
{
	gc_server_check_usage(gc_server_oid(name), entity->owner);
}

/* ERROR unless mapping and filter fit the entity's columns. */
static void
check_mapping(const GcChangelog *changelog)
{
	GcDecodeError error;
	GcMapping  *mapping = gc_mapping_compile(gc_changelog_spec(changelog), &error);

	if (mapping == NULL)
		ereport(ERROR,
				(errcode(GC_DECODE_ERRCODE(&error)),
				 errmsg_internal("%s", error.message),
				 error.detail[0] ? errdetail_internal("%s", error.detail) : 0,
				 error.hint[0] ? errhint("%s", error.hint) : 0));
	gc_mapping_free(mapping);
}

/* The newest identity of this topic; made when there is none. */
int32
gc_changelog_source(const char *server, const char *topic)
{
	int64		source = gc_catalog_run_bigint(SPI_OK_SELECT,
											   "SELECT pg_catalog.max(source)::pg_catalog.int8 FROM guest_context._source"
											   " WHERE server OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2", 2,
											   TEXTOID, CStringGetTextDatum(server), TEXTOID, CStringGetTextDatum(topic));

	if (source == 0)
		source = gc_catalog_run_bigint(SPI_OK_INSERT_RETURNING,
									   "INSERT INTO guest_context._source (server, topic) VALUES ($1, $2)"
									   " RETURNING source::pg_catalog.int8", 2,
									   TEXTOID, CStringGetTextDatum(server), TEXTOID, CStringGetTextDatum(topic));
	return source;
}

static char *
optional_json(FunctionCallInfo fcinfo, int arg)
{
	Jsonb	   *jsonb;

	if (PG_ARGISNULL(arg))
		return NULL;
	jsonb = PG_GETARG_JSONB_P(arg);
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* create_changelog(entity, server, topic, name, envelope, mapping, filter, on_error, start) -> text */
Datum
gc_create_changelog(PG_FUNCTION_ARGS)
{
	GcChangelog changelog = {0};
	GcStart		start;
	Oid			types[11] = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, TEXTOID, TEXTOID, INT4OID, OIDOID};
	Datum		values[11];
	char		nulls[12] = "           ";
	char	   *envelope;
	char	   *on_error;
	int			guc_level;

	gc_require_argument(fcinfo, 0, "entity");
	gc_require_argument(fcinfo, 1, "server");
	gc_require_argument(fcinfo, 2, "topic");
	gc_require_argument(fcinfo, 4, "envelope");
	gc_require_argument(fcinfo, 7, "on_error");
	gc_require_argument(fcinfo, 8, "start");
	guc_level = gc_enter();
	changelog.entity = gc_entity_lock(PG_GETARG_OID(0), ShareLock);
	gc_entity_check_owner(changelog.entity);
	gc_entity_check_columns(changelog.entity);
	changelog.server = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	changelog.topic = text_to_cstring(PG_GETARG_TEXT_PP(2));
	gc_topic_check_name(changelog.topic);
	gc_changelog_check_server(changelog.entity, changelog.server);
	changelog.name = PG_ARGISNULL(3) ?
		psprintf("%s/%s", gc_entity_label(changelog.entity), changelog.topic) :
		text_to_cstring(PG_GETARG_TEXT_PP(3));
	check_name(changelog.name);
	envelope = text_to_cstring(PG_GETARG_TEXT_PP(4));
	check_choice("envelope", envelope, "plain", "debezium");
	changelog.envelope = strcmp(envelope, "plain") == 0 ? GC_ENVELOPE_PLAIN : GC_ENVELOPE_DEBEZIUM;
	changelog.mapping = optional_json(fcinfo, 5);
	if (changelog.mapping == NULL)
		changelog.mapping = changelog.entity->mapping;
	changelog.filter = optional_json(fcinfo, 6);
	on_error = text_to_cstring(PG_GETARG_TEXT_PP(7));
	check_choice("on_error", on_error, "dead_letter", "halt");
	changelog.start = text_to_cstring(PG_GETARG_TEXT_PP(8));
	gc_start_parse(changelog.start, &start);
	check_mapping(&changelog);

	values[0] = CStringGetTextDatum(changelog.name);
	values[1] = Int32GetDatum(changelog.entity->entity_id);
	values[2] = CStringGetTextDatum(changelog.server);
	values[3] = CStringGetTextDatum(changelog.topic);
	values[4] = CStringGetTextDatum(envelope);
	values[5] = PG_ARGISNULL(5) ? (Datum) 0 : PG_GETARG_DATUM(5);
	values[6] = PG_ARGISNULL(6) ? (Datum) 0 : PG_GETARG_DATUM(6);
	values[7] = CStringGetTextDatum(on_error);
	values[8] = CStringGetTextDatum(changelog.start);
	values[9] = Int32GetDatum(gc_changelog_source(changelog.server, changelog.topic));
	values[10] = ObjectIdGetDatum(MyDatabaseId);
	nulls[5] = PG_ARGISNULL(5) ? 'n' : ' ';
	nulls[6] = PG_ARGISNULL(6) ? 'n' : ' ';
	if (gc_catalog_run_bigint(SPI_OK_SELECT,
							  "SELECT 1::pg_catalog.int8 FROM guest_context._changelog WHERE name OPERATOR(pg_catalog.=) $1", 1,
							  TEXTOID, values[0]) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("changelog \"%s\" already exists", changelog.name),
				 errhint("Give it another name: name => '…'.")));
	SPI_connect();
	gc_catalog_execute("WITH made AS (INSERT INTO guest_context._changelog"
					   " (name, entity_id, server, topic, envelope, mapping, filter, on_error, start, source)"
					   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING changelog_id)"
					   " INSERT INTO guest_context._changelog_state (changelog_id, database)"
					   " SELECT changelog_id, $11 FROM made",
					   11, types, values, nulls, SPI_OK_INSERT);
	SPI_finish();
	gc_maintenance_wake(changelog.entity->owner);
	gc_leave(guc_level);
	PG_RETURN_DATUM(values[0]);
}

/* The changelog that a verb is about; its owner calls. */
GcChangelog *
gc_changelog_argument(FunctionCallInfo fcinfo)
{
	GcChangelog *changelog;

	gc_require_argument(fcinfo, 0, "changelog");
	changelog = gc_changelog_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	gc_entity_check_owner(changelog->entity);
	return changelog;
}

void
gc_changelog_lock(int32 changelog_id, LOCKMODE mode)
{
	LockDatabaseObject(gc_catalog_relid("_changelog"), changelog_id, 0, mode);
}

GcChangelog *
gc_changelog_change(FunctionCallInfo fcinfo)
{
	gc_changelog_lock(gc_changelog_argument(fcinfo)->changelog_id, ExclusiveLock);
	return gc_changelog_argument(fcinfo);	/* as it is now */
}

/* alter_changelog(changelog, mapping, filter, on_error, reset) */
Datum
gc_alter_changelog(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);
	Oid			types[4] = {INT4OID, JSONBOID, JSONBOID, TEXTOID};
	Datum		values[4] = {Int32GetDatum(changelog->changelog_id)};
	char		nulls[5] = "    ";
	bool		reset_mapping = false;
	bool		reset_filter = false;

	if (!PG_ARGISNULL(4))
	{
		Datum	   *names;
		int			nnames;

		deconstruct_array(PG_GETARG_ARRAYTYPE_P(4), TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &nnames);
		for (int i = 0; i < nnames; i++)
		{
			char	   *name = TextDatumGetCString(names[i]);

			if (strcmp(name, "mapping") == 0)
				reset_mapping = true;
			else if (strcmp(name, "filter") == 0)
				reset_filter = true;
			else
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" of a changelog cannot be reset", name),
						 errhint("It is \"mapping\" or \"filter\".")));
		}
	}
	if (!PG_ARGISNULL(1))
		changelog->mapping = optional_json(fcinfo, 1);
	else if (reset_mapping)
		changelog->mapping = changelog->entity->mapping;
	if (!PG_ARGISNULL(2) || reset_filter)
		changelog->filter = optional_json(fcinfo, 2);
	if (!PG_ARGISNULL(3))
		check_choice("on_error", text_to_cstring(PG_GETARG_TEXT_PP(3)), "dead_letter", "halt");
	check_mapping(changelog);
	for (int i = 1; i < 4; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	SPI_connect();
	gc_catalog_execute(psprintf("UPDATE guest_context._changelog SET mapping = coalesce($2, %s),"
								" filter = coalesce($3, %s), on_error = coalesce($4, on_error)"
								" WHERE changelog_id OPERATOR(pg_catalog.=) $1",
								reset_mapping ? "NULL" : "mapping", reset_filter ? "NULL" : "filter"),
					   4, types, values, nulls, SPI_OK_UPDATE);
	SPI_finish();
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* drop_changelog(changelog) */
Datum
gc_drop_changelog(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);
	static const char *const tables[] = {"_changelog_state", "_ledger", "_gap", "_dead_letter", "_changelog"};

	/* behind a replay, before anything that this may write is touched */
	gc_catalog_run(SPI_OK_SELECT,
				   "SELECT FROM guest_context._changelog WHERE changelog_id OPERATOR(pg_catalog.=) $1 FOR UPDATE", 1,
				   INT4OID, Int32GetDatum(changelog->changelog_id));
	for (int i = 0; i < lengthof(tables); i++)
		gc_catalog_run(SPI_OK_DELETE,
					   psprintf("DELETE FROM guest_context.%s WHERE changelog_id OPERATOR(pg_catalog.=) $1", tables[i]), 1,
					   INT4OID, Int32GetDatum(changelog->changelog_id));
	gc_freshness_changed(changelog->entity);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* Makes a changelog's state here: paused with a reason, or running. */
void
gc_changelog_set_state(const GcChangelog *changelog, bool paused)
{
	gc_catalog_run(SPI_OK_INSERT,
				   "INSERT INTO guest_context._changelog_state (changelog_id, database, paused, reason)"
				   " VALUES ($1, $2, $3, CASE WHEN $3 THEN 'paused by ' OPERATOR(pg_catalog.||) $4 END)"
				   " ON CONFLICT (changelog_id) DO UPDATE SET database = excluded.database, paused = excluded.paused,"
				   " halted = false, waiting = false, partition = NULL, record_offset = NULL, kind = NULL, lost = NULL,"
				   " changes = _changelog_state.changes OPERATOR(pg_catalog.+) 1, reason = excluded.reason, hint = NULL, since = pg_catalog.clock_timestamp()", 4,
				   INT4OID, Int32GetDatum(changelog->changelog_id), OIDOID, ObjectIdGetDatum(MyDatabaseId),
				   BOOLOID, BoolGetDatum(paused), TEXTOID, CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)));
	gc_freshness_changed(changelog->entity);
}

/* pause(changelog) */
Datum
gc_pause(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();

	gc_changelog_set_state(gc_changelog_change(fcinfo), true);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* resume(changelog) */
Datum
gc_resume(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);

	gc_changelog_check_server(changelog->entity, changelog->server);
	gc_changelog_set_state(changelog, false);
	gc_maintenance_wake(changelog->entity->owner);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* seek(changelog, target) -> text: where it was, as a target */
Datum
gc_seek(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);
	char	   *target;
	char	   *old;
	GcStart		start;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(changelog->changelog_id)};
	MemoryContext caller = CurrentMemoryContext;

	gc_require_argument(fcinfo, 1, "target");
	target = text_to_cstring(PG_GETARG_TEXT_PP(1));
	gc_start_parse(target, &start);
	if (!changelog->paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot seek in changelog \"%s\" while it is not paused", changelog->name),
				 errhint("SELECT guest_context.pause(%s);", quote_literal_cstr(changelog->name))));
	SPI_connect();
	gc_catalog_execute("SELECT pg_catalog.string_agg(pg_catalog.format('%s:%s', partition, to_offset), ',' ORDER BY partition)"
					   " FROM guest_context._position WHERE changelog_id OPERATOR(pg_catalog.=) $1",
					   1, types, values, NULL, SPI_OK_SELECT);
	old = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	/* one that has not been read from there yet is still where it is to begin */
	old = MemoryContextStrdup(caller, old ? old : changelog->start);
	SPI_finish();
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._changelog SET generation = generation OPERATOR(pg_catalog.+) 1, start = $2"
				   " WHERE changelog_id OPERATOR(pg_catalog.=) $1", 2,
				   INT4OID, Int32GetDatum(changelog->changelog_id), TEXTOID, CStringGetTextDatum(target));
	gc_audit("seek", changelog->name, NULL, psprintf("{\"from\": \"%s\", \"to\": \"%s\"}", old, target));
	gc_leave(guc_level);
	PG_RETURN_TEXT_P(cstring_to_text(old));
}
