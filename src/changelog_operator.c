/*
 * changelog_operator.c: how an operator lets a changelog go on that has halted: skip,
 * accept_data_loss, accept_topic.
 *
 * They give records up, so they are for people, never for the worker; each leaves a row in the audit, and the
 * offsets that were not read a row in guest_context._gap: every offset below a position is a row, a dead
 * letter, or such a gap. The position moves by a row of the ledger as a batch would move it, so a
 * worker that still runs with the old one loses its next compare-and-set. What is lost upstream also raises the time since
 * which the entity is covered, so that no dataset is activated that would need it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "changelog.h"
#include "compat.h"
#include "dataset.h"
#include "freshness.h"
#include "launcher.h"
#include "rows.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_skip);
PG_FUNCTION_INFO_V1(gc_accept_data_loss);
PG_FUNCTION_INFO_V1(gc_accept_topic);

/* The state of a changelog, its row locked. */
typedef struct State
{
	bool		paused;
	bool		halted;
	char	   *kind;			/* "" = none */
	int			nlost;
	int64	   *lost;			/* GC_LOST_NUMBERS for each partition */
} State;

static int64 *
array_numbers(ArrayType *array, int *count)
{
	Datum	   *values;
	int64	   *numbers;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &values, NULL, count);
	numbers = palloc(sizeof(int64) * (*count + 1));
	for (int i = 0; i < *count; i++)
		numbers[i] = DatumGetInt64(values[i]);
	return numbers;
}

static ArrayType *
numbers_array(const int64 *numbers, int count)
{
	Datum	   *values = palloc(sizeof(Datum) * (count + 1));

	for (int i = 0; i < count; i++)
		values[i] = Int64GetDatum(numbers[i]);
	return construct_array(values, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

static State
lock_state(const GcChangelog *changelog)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {INT4OID, OIDOID};
	Datum		values[2] = {Int32GetDatum(changelog->changelog_id), ObjectIdGetDatum(MyDatabaseId)};
	State		state = {.paused = true, .kind = ""};

	SPI_connect();
	gc_catalog_execute("SELECT paused, halted, coalesce(kind, ''), lost FROM guest_context._changelog_state"
					   " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND database OPERATOR(pg_catalog.=) $2 FOR UPDATE",
					   2, types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 1)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		bool		isnull;
		Datum		lost;

		state.paused = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		state.halted = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		state.kind = MemoryContextStrdup(caller, SPI_getvalue(row, SPI_tuptable->tupdesc, 3));
		lost = SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &isnull);
		if (!isnull)
		{
			MemoryContext spi = MemoryContextSwitchTo(caller);

			state.lost = array_numbers(DatumGetArrayTypeP(lost), &state.nlost);
			MemoryContextSwitchTo(spi);
		}
	}
	SPI_finish();
	return state;
}

static void
check_stopped(const GcChangelog *changelog, const State *state, const char *what)
{
	if (!state->paused && !state->halted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s changelog \"%s\" while it runs", what, changelog->name),
				 errhint("SELECT guest_context.pause(%s);", quote_literal_cstr(changelog->name))));
}

static char *
reason_argument(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* Where the changelog goes on in a partition; ERROR when it has not begun there. */
static int64
position_of(const GcChangelog *changelog, int32 partition)
{
	int64		position = gc_catalog_run_bigint(SPI_OK_SELECT,
												 "SELECT to_offset OPERATOR(pg_catalog.+) 1 FROM guest_context._position"
												 " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2", 2,
												 INT4OID, Int32GetDatum(changelog->changelog_id), INT4OID, Int32GetDatum(partition));

	if (position == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("changelog \"%s\" has no position in partition %d", changelog->name, partition),
				 errhint("SELECT * FROM guest_context.offsets('%s');", gc_entity_label(changelog->entity))));
	return position - 1;
}

/* Leaves [from, to) of a partition out. */
static void
leave_out(const GcChangelog *changelog, const char *verb, int32 partition, int64 from, int64 to, char *reason)
{
	Oid			types[7] = {INT4OID, INT4OID, INT4OID, INT8OID, INT8OID, TEXTOID, TEXTOID};
	Datum		values[7] = {Int32GetDatum(changelog->changelog_id), Int32GetDatum(changelog->source), Int32GetDatum(partition),
		Int64GetDatum(from), Int64GetDatum(to), reason ? CStringGetTextDatum(reason) : (Datum) 0,
	CStringGetTextDatum(GetUserNameFromId(GetUserId(), false))};
	char		nulls[8] = "       ";

	nulls[5] = reason ? ' ' : 'n';
	gc_catalog_run(SPI_OK_INSERT,
				   "INSERT INTO guest_context._ledger (changelog_id, generation, partition, from_offset, to_offset, high,"
				   " record_time, anchor_offset, anchor_time, anchor_crc)"
				   " SELECT p.changelog_id, p.generation, p.partition, p.to_offset, $4, greatest(p.high, $4),"
				   " p.record_time, p.anchor_offset, p.anchor_time, p.anchor_crc FROM guest_context._position p"
				   " WHERE p.changelog_id OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
				   " AND p.to_offset OPERATOR(pg_catalog.=) $3", 4,
				   INT4OID, Int32GetDatum(changelog->changelog_id), INT4OID, Int32GetDatum(partition),
				   INT8OID, Int64GetDatum(from), INT8OID, Int64GetDatum(to));
	SPI_connect();
	gc_catalog_execute("INSERT INTO guest_context._gap (changelog_id, source, partition, from_offset, to_offset, reason, role)"
					   " VALUES ($1, $2, $3, $4, $5, $6, $7)",
					   7, types, values, nulls, SPI_OK_INSERT);
	SPI_finish();
	gc_audit(verb, changelog->name, reason, psprintf("{\"partition\": %d, \"from\": %lld, \"through\": %lld}", partition,
													  (long long) from, (long long) to - 1));
}

/* It runs again, unless it was paused. */
static void
go_on(const GcChangelog *changelog, const State *state)
{
	if (state->paused)
		return;
	gc_changelog_check_server(changelog->entity, changelog->server);
	gc_changelog_set_state(changelog, false);
	gc_maintenance_wake(changelog->entity->owner);
}

static char *
loss_text(const int64 *lost, int npartitions)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "data loss: offsets %lld to %lld of partition %lld are gone",
					 (long long) lost[1], (long long) lost[2] - 1, (long long) lost[0]);
	if (npartitions > 1)
		appendStringInfo(&text, ", and some of %d other partitions", npartitions - 1);
	return text.data;
}

static void
write_loss(const GcChangelog *changelog, const int64 *lost, int npartitions, const char *reason)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._changelog_state SET halted = true, waiting = false, kind = 'loss', partition = $2,"
				   " record_offset = $3, lost = $4, reason = $5, hint = $6, since = pg_catalog.clock_timestamp()"
				   " WHERE changelog_id OPERATOR(pg_catalog.=) $1 AND database OPERATOR(pg_catalog.=) $7 AND NOT paused", 7,
				   INT4OID, Int32GetDatum(changelog->changelog_id), INT4OID, Int32GetDatum((int32) lost[0]),
				   INT8OID, Int64GetDatum(lost[1]), INT8ARRAYOID, PointerGetDatum(numbers_array(lost, npartitions * GC_LOST_NUMBERS)),
				   TEXTOID, CStringGetTextDatum(reason),
				   TEXTOID, CStringGetTextDatum(psprintf("SELECT guest_context.accept_data_loss(%s, %lld, 'reason');",
														 quote_literal_cstr(changelog->name), (long long) lost[0])),
				   OIDOID, ObjectIdGetDatum(MyDatabaseId));
	gc_freshness_changed(changelog->entity);
}

char *
gc_changelog_note_lost(const GcChangelog *changelog, ArrayType *array)
{
	int			count;
	int64	   *lost = array_numbers(array, &count);
	char	   *reason = loss_text(lost, count / GC_LOST_NUMBERS);
	State		state = lock_state(changelog);

	if (!state.paused && !state.halted)
		write_loss(changelog, lost, count / GC_LOST_NUMBERS, reason);
	return reason;
}

/* skip(changelog, partition, through_offset, reason) */
Datum
gc_skip(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);
	State		state = lock_state(changelog);
	int32		partition;
	int64		through;
	int64		position;

	gc_require_argument(fcinfo, 1, "partition");
	gc_require_argument(fcinfo, 2, "through_offset");
	partition = PG_GETARG_INT32(1);
	through = PG_GETARG_INT64(2);
	check_stopped(changelog, &state, "skip records of");
	position = position_of(changelog, partition);
	if (through < position || through == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot skip through offset %lld of partition %d", (long long) through, partition),
				 errdetail("The next offset to be read is %lld.", (long long) position)));
	leave_out(changelog, "skip", partition, position, through + 1, reason_argument(fcinfo, 3));
	go_on(changelog, &state);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* accept_data_loss(changelog, partition, reason): of one partition, or with NULL of all that were named */
Datum
gc_accept_data_loss(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);
	State		state = lock_state(changelog);
	int			left = 0;
	bool		found = false;

	if (state.nlost == 0 || !state.halted || state.paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changelog \"%s\" has not halted because of lost data", changelog->name),
				 errhint("SELECT * FROM guest_context.status;")));
	for (int i = 0; i < state.nlost; i += GC_LOST_NUMBERS)
	{
		int64	   *lost = &state.lost[i];

		if (!PG_ARGISNULL(1) && lost[0] != PG_GETARG_INT32(1))
		{
			memmove(&state.lost[GC_LOST_NUMBERS * left++], lost, sizeof(int64) * GC_LOST_NUMBERS);
			continue;
		}
		found = true;
		if (position_of(changelog, (int32) lost[0]) == lost[1])
		{
			leave_out(changelog, "accept_data_loss", (int32) lost[0], lost[1], lost[2], reason_argument(fcinfo, 2));
			/* what is gone is older than what is there */
			gc_coverage_raise(changelog->entity, lost[3] == GC_NO_TIMESTAMP ? DT_NOEND : lost[3] - GC_UNIX_EPOCH_US);
		}
	}
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changelog \"%s\" has lost nothing of partition %d", changelog->name, PG_GETARG_INT32(1)),
				 errhint("SELECT * FROM guest_context.status;")));
	if (left > 0)
		write_loss(changelog, state.lost, left, loss_text(state.lost, left));
	else
		go_on(changelog, &state);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}

/* accept_topic(changelog, reason): a new source, from its start */
Datum
gc_accept_topic(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcChangelog *changelog = gc_changelog_change(fcinfo);
	State		state = lock_state(changelog);
	int32		source;

	check_stopped(changelog, &state, "accept another topic for");
	if (state.halted && strcmp(state.kind, "topic") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changelog \"%s\" has not halted because of a replaced topic", changelog->name),
				 errhint("SELECT * FROM guest_context.status;")));

	/* another changelog of this topic may have been told already */
	source = gc_changelog_source(changelog->server, changelog->topic);
	if (source == changelog->source)
		source = gc_catalog_run_bigint(SPI_OK_INSERT_RETURNING,
									   "INSERT INTO guest_context._source (server, topic) VALUES ($1, $2)"
									   " RETURNING source::pg_catalog.int8", 2,
									   TEXTOID, CStringGetTextDatum(changelog->server), TEXTOID, CStringGetTextDatum(changelog->topic));
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._changelog SET generation = generation OPERATOR(pg_catalog.+) 1, start = 'earliest', source = $2"
				   " WHERE changelog_id OPERATOR(pg_catalog.=) $1", 2,
				   INT4OID, Int32GetDatum(changelog->changelog_id), INT4OID, Int32GetDatum(source));

	/* those were offsets of the topic before, whose last records may never have been read */
	gc_catalog_run(SPI_OK_DELETE,
				   "DELETE FROM guest_context._ledger WHERE changelog_id OPERATOR(pg_catalog.=) $1", 1,
				   INT4OID, Int32GetDatum(changelog->changelog_id));
	gc_coverage_raise(changelog->entity, DT_NOEND);
	gc_audit("accept_topic", changelog->name, reason_argument(fcinfo, 1),
			 psprintf("{\"from\": %d, \"to\": %d}", changelog->source, source));
	go_on(changelog, &state);
	gc_leave(guc_level);
	PG_RETURN_VOID();
}
