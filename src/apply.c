/*
 * apply.c: apply(), change records from SQL into the speed table.
 *
 * A record goes the way of one from a changelog: through the decoder
 * (src/common/), which makes texts of columns or an error, and through COPY's
 * machinery into the leaf of the moment (rows.c). Source is 0, the offset comes
 * from the entity's own sequence, so that of two records with one version the
 * one applied later wins.
 *
 * The caller needs INSERT on the view, which refuses direct INSERTs, so that the right to
 * apply is no right to write rows past every rule. Writing itself runs as the
 * tree's owner in a security-restricted context, since defaults, checks and
 * triggers are the owner's. The root's writer lock is taken before the clock is
 * read and held to the end of the transaction: see gc_writers_check.
 *
 * Payloads do not get into the server's log. An error is about one record, says which,
 * and names the column or the constraint; what quotes the payload is in its DETAIL, for
 * the client alone, and the statement is not logged with it. COPY and the core's
 * constraints quote whole rows, so their errors are caught and made anew.
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catalog.h"
#include "common/decode.h"
#include "compat.h"
#include "dataset.h"
#include "guest_context.h"
#include "rows.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_apply);

/* Which record of the payload is at fault, for the error's context. */
typedef struct Progress
{
	const GcEntity *entity;
	GcRows	   *writing;		/* knows it while rows are written */
	int64		record;			/* counted from 1; 0 = not known */
} Progress;

/* about_payload: the detail may quote it. */
static void
report(const GcDecodeError *error, bool about_payload)
{
	ereport(ERROR,
			(errcode(GC_DECODE_ERRCODE(error)),
			 errmsg_internal("%s", error->message),
			 error->detail[0] ? errdetail_internal("%s", error->detail) : 0,
			 error->detail[0] && about_payload ? errdetail_log(GC_NOT_LOGGED) : 0,
			 error->hint[0] ? errhint("%s", error->hint) : 0));
}

void
gc_mapping_check(const GcEntity *entity)
{
	GcDecodeError error;
	GcMapping  *mapping = gc_mapping_compile(gc_entity_spec(entity), &error);

	if (mapping == NULL)
		report(&error, false);
	gc_mapping_free(mapping);
}

/* Says which record was at fault; the statement, which may have the payload in it, is not logged. */
static void
say_record(void *arg)
{
	const Progress *progress = arg;
	int64		record = progress->writing ? gc_rows_failed(progress->writing) : progress->record;

	errhidestmt(true);
	if (record > 0)
		errcontext("applying record %lld of the payload to entity \"%s.%s\"",
				   (long long) record, progress->entity->schema, progress->entity->name);
	else
		errcontext("applying records to entity \"%s.%s\"",
				   progress->entity->schema, progress->entity->name);
}

/* Who may write; under policies, which are not checked here, nobody. */
static void
check_rights(const GcEntity *entity)
{
	Oid			user = GetUserId();

	/* who may write any row into the tree may apply too */
	if (pg_class_aclcheck(entity->view, user, ACL_INSERT) != ACLCHECK_OK &&
		pg_class_aclcheck(entity->versions, user, ACL_INSERT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to apply records to entity \"%s.%s\"",
						entity->schema, entity->name),
				 errdetail("Role \"%s\" has no INSERT on the view.", GetUserNameFromId(user, false)),
				 errhint("GRANT INSERT ON %s TO %s;", gc_quoted_name(entity->view),
						 quote_identifier(GetUserNameFromId(user, false)))));
	if (check_enable_rls(entity->versions, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot apply records to entity \"%s.%s\" under row security",
						entity->schema, entity->name),
				 errdetail("Policies on \"%s\" apply to role \"%s\".", get_rel_name(entity->versions),
						   GetUserNameFromId(GetUserId(), false)),
				 GetUserId() == entity->owner ?
				 errhint("ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", gc_quoted_name(entity->versions)) :
				 errhint("Apply as the owner, role \"%s\".", GetUserNameFromId(entity->owner, false))));
}

/* A version that lies too far ahead could not be replaced for as long. */
static void
check_version(const GcEntity *entity, const GcDecoded *record, TimestampTz now)
{
	TimestampTz version = record->version_us - GC_UNIX_EPOCH_US;

	if (version > now + gc_max_future_skew * USECS_PER_SEC)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("version of a record of entity \"%s.%s\" lies too far ahead",
						entity->schema, entity->name),
				 errdetail("Column \"%s\" is %s, the clock is %s, guest_context.max_future_skew is %d s.",
						   entity->version_column, gc_timestamp_literal(version),
						   gc_timestamp_literal(now), gc_max_future_skew),
				 errhint("Correct the clock it comes from, or declare the unit of its times in the mapping.")));
}

/*
 * apply(entity regclass, payload json, deleted boolean) -> bigint
 *
 * Applies one JSON object, or an array of them; returns how many records were
 * written. All or none: the first bad record is an ERROR.
 */
Datum
gc_apply(PG_FUNCTION_ARGS)
{
	text	   *payload;
	GcEntity   *entity;
	GcEntity   *root;
	GcMapping  *mapping;
	GcElements *elements;
	GcDecodeError error;
	GcDecodeInput input = {0};
	GcDecoded	record;
	TimestampTz now;
	GcMappingSpec *spec;
	GcRows	   *rows;
	Oid			sequence;
	Progress	progress = {0};
	ErrorContextCallback context = {.callback = say_record, .arg = &progress};
	int64		decoded = 0;
	int64		count = 0;
	int64		offset;
	bool		deleted;
	int			guc_level;

	gc_require_argument(fcinfo, 0, "entity");
	gc_require_argument(fcinfo, 1, "payload");
	gc_require_argument(fcinfo, 2, "deleted");
	PreventCommandIfReadOnly("apply()");
	guc_level = gc_enter();
	payload = PG_GETARG_TEXT_PP(1);
	entity = gc_entity_get(PG_GETARG_OID(0), false);
	check_rights(entity);
	/* before the leaf, as readers do: whoever drops the entity waits here for all of it */
	LockRelationOid(entity->view, AccessShareLock);
	gc_entity_check_exists(entity, entity->view);
	root = entity->parent_id == 0 ? entity : gc_entity_by_id(entity->root_id);
	gc_writer_lock(root->versions, RowExclusiveLock);
	now = GetCurrentTimestamp();

	progress.entity = entity;
	context.previous = error_context_stack;
	error_context_stack = &context;

	spec = gc_entity_spec(entity);
	rows = gc_rows_create(entity, spec);
	gc_rows_open(rows, now);

	mapping = gc_mapping_compile(spec, &error);
	if (mapping == NULL)
		report(&error, false);
	elements = gc_elements_begin(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), &error);
	if (elements == NULL)
		report(&error, true);
	sequence = linitial_oid(getOwnedSequences(entity->versions));
	input.timestamp_us = now + GC_UNIX_EPOCH_US;
	input.deleted = PG_GETARG_BOOL(2);
	while (gc_elements_next(elements, &input.value, &input.value_len))
	{
		CHECK_FOR_INTERRUPTS();
		progress.record = ++decoded;
		switch (gc_decode(mapping, &input, &record))
		{
			case GC_DECODE_UPSERT:
			case GC_DECODE_TOMBSTONE:
				check_version(entity, &record, now);
				offset = nextval_internal(sequence, false);
				deleted = record.status == GC_DECODE_TOMBSTONE;
				progress.writing = rows;
				gc_rows_add(rows, record.fields, record.version_us, deleted, 0, 0, offset, decoded);
				progress.writing = NULL;
				count++;
				break;
			case GC_DECODE_FILTERED:
			case GC_DECODE_IGNORED:
				break;
			case GC_DECODE_BAD:
			case GC_DECODE_HALT:
				report(&record.error, true);
		}
	}
	progress.writing = rows;
	gc_rows_close(rows);
	error_context_stack = context.previous;
	gc_mapping_free(mapping);
	gc_leave(guc_level);
	PG_RETURN_INT64(count - gc_rows_left_out(rows));
}
