/*
 * server_options.c: options of servers and user mappings, when they are defined
 * and when they are used.
 *
 * The wrapper's validator sees a list of options and what kind of object they are for,
 * nothing more: neither the server's TYPE nor whose mapping it is. So it checks
 * names, places, forms of values and what only some roles may set; the rest is
 * checked at use, together with all that once more, because a server can have been made
 * while another version of the library was there.
 *
 * What only some roles may set is asked of who defines it, as file_fdw does: an
 * administrator can make a server of files and grant USAGE on it. It is asked for all options of the
 * object, so whoever changes one option needs the rights for those that stay.
 *
 * Values are never part of a message, nor of the log: errors of the validator hide their
 * statement, in which a password may stand.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "catalog/dependency.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "common/common.h"
#include "common/options.h"
#include "compat.h"
#include "reader_process.h"
#include "server_options.h"

PG_FUNCTION_INFO_V1(gc_options_validator);

#define PASSWORD_FILE_MAX	4096	/* bytes of its first line */
#define TOPIC_NAME_MAX		249 /* Kafka's */

/* What somebody may have in mind who takes another client's name for an option. */
static const char *const other_names[][2] = {
	{"metadata.broker.list", "bootstrap.servers"},
	{"brokers", "bootstrap.servers"},
	{"host", "bootstrap.servers"},
	{"user", "sasl.username"},
	{"username", "sasl.username"},
	{"password", "sasl.password"},
	{"sasl.password_file", "password_file"},
};

static bool
belongs(const GcOption *option, Oid catalog)
{
	return option->flags & (catalog == UserMappingRelationId ? GC_OPTION_MAPPING : GC_OPTION_SERVER);
}

/* Of what is this catalogue? */
static const char *
place_name(Oid catalog)
{
	switch (catalog)
	{
		case ForeignServerRelationId:
			return "a server";
		case UserMappingRelationId:
			return "a user mapping";
		case ForeignDataWrapperRelationId:
			return "the wrapper";
		default:
			return "this object";
	}
}

/* The option that was meant by a wrong name, or NULL when none is like it. */
static const char *
closest_option(const char *name, Oid catalog)
{
	const char *closest = NULL;
	int			len = strlen(name);
	int			best = Max(4, len / 2) + 1;

	for (int i = 0; i < lengthof(other_names); i++)
		if (strcmp(name, other_names[i][0]) == 0)
			return belongs(gc_option_find(other_names[i][1]), catalog) ? other_names[i][1] : NULL;
	if (len > 63)
		return NULL;
	for (int i = 0; i < gc_noptions; i++)
	{
		int			distance;

		if (!belongs(&gc_options[i], catalog))
			continue;
		distance = varstr_levenshtein_less_equal(name, len, gc_options[i].name, strlen(gc_options[i].name),
												 1, 1, 1, best, true);
		if (distance < best)
		{
			best = distance;
			closest = gc_options[i].name;
		}
	}
	return closest;
}

static char *
all_options(Oid catalog)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < gc_noptions; i++)
		if (belongs(&gc_options[i], catalog))
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", gc_options[i].name);
	return names.data;
}

static void
refuse_name(const char *name, Oid catalog)
{
	const char *closest;

	if (catalog != ForeignServerRelationId && catalog != UserMappingRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", name),
				 errhint("There are no valid options in this context."),
				 errhidestmt(true)));
	closest = closest_option(name, catalog);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\" of %s", name, place_name(catalog)),
			 closest ? errhint("Perhaps you meant the option \"%s\".", closest) :
			 errhint("Valid options are: %s.", all_options(catalog)),
			 errhidestmt(true)));
}

static void
refuse_place(const GcOption *option, Oid catalog)
{
	if (catalog == ForeignServerRelationId && option->flags & GC_OPTION_SECRET)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is a secret and cannot be an option of a server", option->name),
				 errdetail("Options of servers are visible to every role."),
				 errhint("CREATE USER MAPPING FOR … SERVER … OPTIONS (\"%s\" '…');", option->name),
				 errhidestmt(true)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("option \"%s\" is one of %s, not of %s", option->name,
					option->flags & GC_OPTION_MAPPING ? "a user mapping" : "a server", place_name(catalog)),
			 option->flags & GC_OPTION_MAPPING ?
			 errhint("CREATE USER MAPPING FOR … SERVER … OPTIONS (\"%s\" '…');", option->name) :
			 errhint("ALTER SERVER … OPTIONS (ADD \"%s\" '…');", option->name),
			 errhidestmt(true)));
}

static const char *
value_of(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

static bool
is(List *options, const char *name, const char *word)
{
	const char *value = value_of(options, name);

	return value != NULL && gc_option_is(value, word);
}

static bool
uses_sasl(List *options)
{
	return is(options, "security.protocol", "SASL_SSL") || is(options, "security.protocol", "SASL_PLAINTEXT");
}

/* Two options of one object that contradict each other. */
static void
refuse_pair(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errhint("%s", hint),
			 errhidestmt(true)));
}

/* Names, places and forms: what can be told of one object's options alone. */
static void
check_options(List *options, Oid catalog)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);
		const GcOption *option = gc_option_find(def->defname);
		char		problem[128];

		if (option == NULL || (catalog != ForeignServerRelationId && catalog != UserMappingRelationId))
			refuse_name(def->defname, catalog);
		if (!belongs(option, catalog))
			refuse_place(option, catalog);
		if (!gc_option_check(option, defGetString(def), problem, sizeof(problem)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" %s", option->name, problem),
					 errhidestmt(true)));
	}
	if (value_of(options, "directory") && list_length(options) > 1)
		refuse_pair("option \"directory\" excludes all other options of a server",
					"A server of TYPE 'file' has a directory, one of Kafka has \"bootstrap.servers\".");
	if (value_of(options, "sasl.password") && value_of(options, "password_file"))
		refuse_pair("options \"sasl.password\" and \"password_file\" exclude each other",
					"Drop the one that does not hold.");
	if (value_of(options, "sasl.mechanism") && !uses_sasl(options))
		refuse_pair("option \"sasl.mechanism\" means nothing without SASL",
					"Add the option \"security.protocol\" 'SASL_SSL'.");
}

/* What only some roles may set. */
static void
check_rights(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		const char *name = ((DefElem *) lfirst(lc))->defname;

		if (gc_option_find(name)->flags & GC_OPTION_FILE &&
			!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set option \"%s\"", name),
					 errdetail("It names a file of the database server, which needs the rights of role pg_read_server_files."),
					 strcmp(name, "directory") == 0 ? 0 : strcmp(name, "password_file") == 0 ?
					 errhint("Use the option \"sasl.password\" instead.") :
					 strncmp(name, "ssl.", 4) == 0 && strcmp(name, "ssl.crl.location") != 0 ?
					 errhint("Use the option \"%.*s.pem\" instead.", (int) (strlen(name) - strlen(".location")), name) : 0,
					 errhidestmt(true)));
	}
	if (superuser())
		return;
	if (is(options, "enable.ssl.certificate.verification", "false") ||
		is(options, "ssl.endpoint.identification.algorithm", "none"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to turn off the verification of brokers"),
				 errdetail("Only a superuser may let the server talk to whoever answers."),
				 errhint("Give the certificate of your authority in the option \"ssl.ca.pem\"."),
				 errhidestmt(true)));
	if (is(options, "security.protocol", "SASL_PLAINTEXT"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to send passwords without TLS"),
				 errdetail("Only a superuser may set \"security.protocol\" to SASL_PLAINTEXT."),
				 errhint("Use 'SASL_SSL'."),
				 errhidestmt(true)));
}

/* The setting by which the text of this statement is kept where others may read it, or NULL. */
static const char *
recorded_by(void)
{
	const char *track = GetConfigOption("pg_stat_statements.track", true, false);
	const char *utility = GetConfigOption("pg_stat_statements.track_utility", true, false);

	if (log_statement >= LOGSTMT_DDL)
		return "log_statement";
	if (log_min_duration_statement >= 0)
		return "log_min_duration_statement";
	if (track && strcmp(track, "none") != 0 && utility && strcmp(utility, "on") == 0)
		return "pg_stat_statements.track_utility";
	return NULL;
}

/* A secret that stands in the statement itself, and not only in the options that stay as they are. */
static void
warn_of_records(List *options)
{
	const char *by = recorded_by();
	ListCell   *lc;

	if (by == NULL || debug_query_string == NULL)
		return;
	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (gc_option_find(def->defname)->flags & GC_OPTION_SECRET &&
			strstr(debug_query_string, defGetString(def)) != NULL)
		{
			ereport(WARNING,
					(errmsg("a secret in this statement is recorded by %s", by),
					 errhint("Change it where it is from, and tell it here by \"password_file\", or in a session of a superuser who has turned that off."),
					 errhidestmt(true)));
			return;
		}
	}
}

/*
 * _options_validator(text[], oid) -> void: for CREATE and ALTER of the wrapper, servers
 * and user mappings.
 */
Datum
gc_options_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));

	check_options(options, PG_GETARG_OID(1));
	check_rights(options);
	warn_of_records(options);
	PG_RETURN_VOID();
}

/*
 * At use
 */

/* Found by membership: the wrapper may be renamed, and others may have its name elsewhere. */
static void
check_wrapper(ForeignServer *server)
{
	Oid			extension = get_extension_oid("guest_context", true);

	if (!OidIsValid(extension) ||
		getExtensionOfObject(ForeignDataWrapperRelationId, server->fdwid) != extension)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not one of guest_context", server->servername),
				 errdetail("Its wrapper is \"%s\".", GetForeignDataWrapper(server->fdwid)->fdwname),
				 errhint("CREATE SERVER … FOREIGN DATA WRAPPER guest_context OPTIONS (\"bootstrap.servers\" '…');")));
}

Oid
gc_server_oid(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER guest_context OPTIONS (\"bootstrap.servers\" '…');",
						 quote_identifier(name))));
	check_wrapper(server);
	return server->serverid;
}

void
gc_server_check_usage(Oid server, Oid role)
{
	AclResult	result = gc_server_aclcheck(server, role, ACL_USAGE);

	if (result != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s", GetForeignServer(server)->servername),
				 errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s;",
						 quote_identifier(GetForeignServer(server)->servername),
						 quote_identifier(GetUserNameFromId(role, false)))));
}

const char *
gc_server_kind(Oid server)
{
	ForeignServer *found = GetForeignServer(server);

	if (found->servertype == NULL || strcmp(found->servertype, "kafka") == 0)
		return "kafka";
	if (strcmp(found->servertype, "file") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("server \"%s\" has the unknown type \"%s\"", found->servername, found->servertype),
				 errdetail("A server is of Kafka when it has no type, or reads files when its type is \"file\"."),
				 errhint("DROP SERVER %s; CREATE SERVER %s FOREIGN DATA WRAPPER guest_context OPTIONS (\"bootstrap.servers\" '…');",
						 quote_identifier(found->servername), quote_identifier(found->servername))));
	return "file";
}

/* The options of a role's own mapping (InvalidOid: of that FOR PUBLIC); false when there is none. */
static bool
mapping_options(Oid server, Oid role, List **options)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server));
	Datum		value;
	bool		isnull;

	*options = NIL;
	if (!HeapTupleIsValid(tuple))
		return false;
	value = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		*options = untransformRelOptions(value);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * A server of files needs no mapping, nor does Kafka without SASL. Whose mapping FOR PUBLIC it is nobody can
 * say, and the server's owner reads the secrets in it; so it is not taken, not even quietly.
 */
static List *
own_mapping(ForeignServer *server, Oid role, bool sasl)
{
	char	   *role_name = GetUserNameFromId(role, false);
	List	   *options;

	if (mapping_options(server->serverid, role, &options))
	{
		check_options(options, UserMappingRelationId);
		return options;
	}
	if (mapping_options(server->serverid, InvalidOid, &options))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot use the user mapping for PUBLIC on server \"%s\"", server->servername),
				 errdetail("The owner of the server can read its secrets. Each role needs its own."),
				 errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (…); DROP USER MAPPING FOR PUBLIC SERVER %s;",
						 quote_identifier(role_name), quote_identifier(server->servername),
						 quote_identifier(server->servername))));
	if (sasl)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" has no user mapping on server \"%s\"", role_name, server->servername),
				 errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (\"sasl.username\" '…', \"sasl.password\" '…');",
						 quote_identifier(role_name), quote_identifier(server->servername))));
	return NIL;
}

static void
refuse_incomplete(ForeignServer *server, Oid role, const char *option)
{
	bool		mapping = gc_option_find(option)->flags & GC_OPTION_MAPPING;
	char	   *server_name = pstrdup(quote_identifier(server->servername));

	if (!mapping)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("server \"%s\" has no option \"%s\"", server->servername, option),
				 errhint("ALTER SERVER %s OPTIONS (ADD \"%s\" '…');", server_name, option)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
			 errmsg("the user mapping of role \"%s\" on server \"%s\" has no option \"%s\"",
					GetUserNameFromId(role, false), server->servername, option),
			 errhint("ALTER USER MAPPING FOR %s SERVER %s OPTIONS (ADD \"%s\" '…');",
					 quote_identifier(GetUserNameFromId(role, false)), server_name, option)));
}

/*
 * Everything that the way of authentication needs must be the role's own: the library would go and
 * take a Kerberos ticket of the user that PostgreSQL runs as, which is nobody's to borrow.
 */
static void
check_complete(ForeignServer *server, Oid role, List *options, bool sasl)
{
	if (!value_of(options, "bootstrap.servers"))
		refuse_incomplete(server, role, "bootstrap.servers");
	if (!sasl)
		return;
	if (!value_of(options, "sasl.mechanism"))
		refuse_incomplete(server, role, "sasl.mechanism");
	if (is(options, "sasl.mechanism", "GSSAPI"))
	{
		if (!value_of(options, "sasl.kerberos.principal"))
			refuse_incomplete(server, role, "sasl.kerberos.principal");
		if (!value_of(options, "sasl.kerberos.keytab"))
			refuse_incomplete(server, role, "sasl.kerberos.keytab");
		return;
	}
	if (!value_of(options, "sasl.username"))
		refuse_incomplete(server, role, "sasl.username");
	if (!value_of(options, "sasl.password") && !value_of(options, "password_file"))
		refuse_incomplete(server, role, "sasl.password");
}

/* The first line of a file, which may be followed by nothing else of interest. */
static char *
read_password(const char *path)
{
	char	   *line = palloc(PASSWORD_FILE_MAX + 1);
	/* a FIFO must not make us wait */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK);
	struct stat status;
	ssize_t		len;

	if (fd < 0 || fstat(fd, &status) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open the password file \"%s\": %m", path)));
	if (!S_ISREG(status.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the password file \"%s\" is not a regular file", path)));
	len = read(fd, line, PASSWORD_FILE_MAX);
	if (len < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the password file \"%s\": %m", path)));
	CloseTransientFile(fd);
	line[len] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	if (line[0] == '\0' || strlen(line) == PASSWORD_FILE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the password file \"%s\" has no password in its first line", path),
				 errdetail("It takes 1 to %d bytes.", PASSWORD_FILE_MAX - 1)));
	return line;
}

static List *
add_setting(List *settings, const char *name, const char *value)
{
	GcServerSetting  *setting = palloc(sizeof(GcServerSetting));

	setting->name = name;
	setting->value = value;
	return lappend(settings, setting);
}

List *
gc_server_settings(Oid server_oid, Oid role)
{
	ForeignServer *server = GetForeignServer(server_oid);
	bool		file = strcmp(gc_server_kind(server_oid), "file") == 0;
	bool		sasl = uses_sasl(server->options);
	bool		tls = is(server->options, "security.protocol", "SSL") || is(server->options, "security.protocol", "SASL_SSL");
	List	   *options;
	List	   *settings = NIL;
	ListCell   *lc;

	check_wrapper(server);
	gc_server_check_usage(server_oid, role);
	check_options(server->options, ForeignServerRelationId);
	if (file != (value_of(server->options, "directory") != NULL) && server->options != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 file ? errmsg("server \"%s\" has the type \"file\", but options of Kafka", server->servername) :
				 errmsg("server \"%s\" has the option \"directory\", but not the type \"file\"", server->servername),
				 errhint("DROP SERVER %s; CREATE SERVER %s TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '…');",
						 quote_identifier(server->servername), quote_identifier(server->servername))));
	if (file)
	{
		if (server->options == NIL)
			refuse_incomplete(server, role, "directory");
		return add_setting(NIL, "directory", value_of(server->options, "directory"));
	}
	options = list_concat_copy(server->options, own_mapping(server, role, sasl));
	check_complete(server, role, options, sasl);
	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);
		const char *value = defGetString(def);

		/* a mapping may have more than this server takes, and nobody gets a secret that he does not need */
		if (!sasl && (strncmp(def->defname, "sasl.", 5) == 0 || strcmp(def->defname, "password_file") == 0))
			continue;
		if (!tls && strncmp(def->defname, "ssl.", 4) == 0)
			continue;
		if (strcmp(def->defname, "password_file") == 0)
			settings = add_setting(settings, "sasl.password", read_password(value));
		else if (strcmp(def->defname, "sasl.mechanism") == 0)
			/* the library takes it in capitals only */
			settings = add_setting(settings, "sasl.mechanism", asc_toupper(value, strlen(value)));
		else
			settings = add_setting(settings, def->defname, value);
	}
	return settings;
}

const char *
gc_setting_value(List *settings, const char *name)
{
	ListCell   *lc;

	foreach(lc, settings)
	{
		GcServerSetting  *setting = lfirst(lc);

		if (strcmp(setting->name, name) == 0)
			return setting->value;
	}
	return NULL;
}

/* Kafka's rule. It also keeps a topic of files inside of the server's directory. */
void
gc_topic_check_name(const char *topic)
{
	size_t		len = strlen(topic);

	if (len == 0 || len > TOPIC_NAME_MAX || strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0 ||
		topic[strspn(topic, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")] != '\0')
	{
		char		quoted[GC_QUOTE_SIZE];

		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("a topic cannot have the name \"%s\"", gc_quote(quoted, topic, len)),
				 errdetail("Names are made of 1 to %d letters, digits and any of . _ -", TOPIC_NAME_MAX)));
	}
}
