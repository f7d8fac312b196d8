/*
 * server_options.h: foreign servers of the wrapper guest_context, and what their options
 * and user mappings mean.
 */
#ifndef GC_SERVER_OPTIONS_H
#define GC_SERVER_OPTIONS_H

#include "nodes/pg_list.h"

/* One option as the reader program is told it. */
typedef struct GcServerSetting
{
	const char *name;
	const char *value;
} GcServerSetting;

/*
 * The server of that name; ERROR when there is none, or when it is of another wrapper.
 */
extern Oid	gc_server_oid(const char *name);

/* ERROR unless the role has USAGE on the server. */
extern void gc_server_check_usage(Oid server, Oid role);

/*
 * What a role connects with: GcServerSetting in the current context, of the server and of the role's own
 * user mapping, everything checked again, a password file read. ERROR when it has no USAGE on the server, when
 * a mapping is needed and there is none or only one FOR PUBLIC, and when options are missing or wrong.
 */
extern List *gc_server_settings(Oid server, Oid role);

/* A setting's value, or NULL. */
extern const char *gc_setting_value(List *settings, const char *name);

/* ERROR unless a topic may have that name. */
extern void gc_topic_check_name(const char *topic);

#endif							/* GC_SERVER_OPTIONS_H */
