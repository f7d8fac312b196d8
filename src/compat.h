/*
 * compat.h: every difference between PostgreSQL 15 and 18 that this
 * extension meets, so that no other file asks for a version.
 */
#ifndef GC_COMPAT_H
#define GC_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "guest_context needs PostgreSQL 15 or later"
#endif

/* Headers that postgres.h included once. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* Whether a background worker can run only as a role that may log in. */
#define GC_WORKER_NEEDS_LOGIN (PG_VERSION_NUM < 170000)

/* How a worker connects as an owner that may not log in. */
#if PG_VERSION_NUM >= 170000
#define GC_WORKER_CONNECT_FLAGS BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define GC_WORKER_CONNECT_FLAGS 0
#endif

/* The process of a virtual transaction, NULL when it has gone; storage/procarray.h and storage/sinvaladt.h. */
#if PG_VERSION_NUM >= 170000
#define gc_vxid_proc(vxid) ProcNumberGetProc((vxid).procNumber)
#else
#define gc_vxid_proc(vxid) BackendIdGetProc((vxid).backendId)
#endif

/* Rights on a schema. */
#if PG_VERSION_NUM >= 160000
#define gc_schema_aclcheck(schema, role, mode) object_aclcheck(NamespaceRelationId, (schema), (role), (mode))
#else
#define gc_schema_aclcheck(schema, role, mode) pg_namespace_aclcheck((schema), (role), (mode))
#endif

/* Rights on a database. */
#if PG_VERSION_NUM >= 160000
#define gc_database_aclcheck(database, role, mode) object_aclcheck(DatabaseRelationId, (database), (role), (mode))
#else
#define gc_database_aclcheck(database, role, mode) pg_database_aclcheck((database), (role), (mode))
#endif

/* Rights on a foreign server. */
#if PG_VERSION_NUM >= 160000
#define gc_server_aclcheck(server, role, mode) object_aclcheck(ForeignServerRelationId, (server), (role), (mode))
#else
#define gc_server_aclcheck(server, role, mode) pg_foreign_server_aclcheck((server), (role), (mode))
#endif

/* The i-th backend's status, counted from 1; NULL past the end. */
#if PG_VERSION_NUM >= 160000
#define gc_backend_status(i) pgstat_get_local_beentry_by_index(i)
#else
#define gc_backend_status(i) pgstat_fetch_stat_local_beentry(i)
#endif

/* An index scan that reads the table, without instrumentation (18). */
#if PG_VERSION_NUM >= 180000
#define gc_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define gc_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

/* Where ExplainProperty…() are declared. */
#if PG_VERSION_NUM >= 180000
#define GC_EXPLAIN_HEADER "commands/explain_format.h"
#else
#define GC_EXPLAIN_HEADER "commands/explain.h"
#endif

/*
 * common/jsonapi.h: from 17 on a lexer can live in the caller's memory and has a
 * function to free it.  gc_json_lexer_make makes one for UTF-8 without a text yet; with
 * escapes it also keeps each string's content in strval.
 */
#if PG_VERSION_NUM >= 170000
#define gc_json_lexer_make(escapes) \
	makeJsonLexContextCstringLen(NULL, "", 0, PG_UTF8, (escapes))
#define gc_json_lexer_free(lex) freeJsonLexContext(lex)
#else
#define gc_json_lexer_make(escapes) \
	makeJsonLexContextCstringLen((char *) "", 0, PG_UTF8, (escapes))
#define gc_json_lexer_free(lex) \
	do { \
		if ((lex)->strval) \
		{ \
			pfree((lex)->strval->data); \
			pfree((lex)->strval); \
		} \
		pfree(lex); \
	} while (0)
#endif

/* A row's entries in all indexes, by the executor; returns the indexes to be checked again at the end. */
#if PG_VERSION_NUM >= 160000
#define gc_insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false)
#else
#define gc_insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL)
#endif

/* What a backend shows of itself, by its number in the list, from 1 on; utils/backend_status.h. */
#if PG_VERSION_NUM >= 160000
#define gc_local_beentry(i) pgstat_get_local_beentry_by_index(i)
#else
#define gc_local_beentry(i) pgstat_fetch_stat_local_beentry(i)
#endif

/* Is this process a background worker? miscadmin.h. */
#if PG_VERSION_NUM >= 170000
#define gc_is_background_worker() AmBackgroundWorkerProcess()
#else
#define gc_is_background_worker() IsBackgroundWorker
#endif

#endif							/* GC_COMPAT_H */
