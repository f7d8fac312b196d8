/*
 * options.c: the list. Names are librdkafka's own. What runs code, loads libraries, reads files
 * without being told to, logs secrets or lives in the library's own test suite is
 * not here (plugin.library.paths, ssl.engine.location, ssl.providers, sasl.kerberos.kinit.cmd,
 * offset.store.*, debug, log_level, test.mock.*, callbacks), nor are aliases
 * (metadata.broker.list), nor what the reader decides itself (check.crcs, enable.auto.commit, …).
 *
 * For GSSAPI the library runs kinit by a shell, with service name, principal and keytab put into
 * that command as they are, so those have no character that means anything to a shell.
 */
#include "common.h"

#include <ctype.h>

#include "options.h"

const GcOption gc_options[] = {
	{"bootstrap.servers", GC_OPTION_SERVER},
	{"security.protocol", GC_OPTION_SERVER, GC_FORM_WORD, 0, 0, "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"},
	{"sasl.mechanism", GC_OPTION_SERVER, GC_FORM_WORD, 0, 0, "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or GSSAPI"},
	{"ssl.ca.location", GC_OPTION_SERVER | GC_OPTION_FILE, GC_FORM_PATH},
	{"ssl.ca.pem", GC_OPTION_SERVER, GC_FORM_PEM},
	{"ssl.certificate.location", GC_OPTION_MAPPING | GC_OPTION_FILE, GC_FORM_PATH},
	{"ssl.certificate.pem", GC_OPTION_MAPPING, GC_FORM_PEM},
	{"ssl.key.location", GC_OPTION_MAPPING | GC_OPTION_FILE, GC_FORM_PATH},
	{"ssl.key.pem", GC_OPTION_MAPPING | GC_OPTION_SECRET, GC_FORM_PEM},
	{"ssl.key.password", GC_OPTION_MAPPING | GC_OPTION_SECRET, GC_FORM_SECRET},
	{"ssl.crl.location", GC_OPTION_SERVER | GC_OPTION_FILE, GC_FORM_PATH},
	{"ssl.cipher.suites", GC_OPTION_SERVER},
	{"ssl.endpoint.identification.algorithm", GC_OPTION_SERVER, GC_FORM_WORD, 0, 0, "https or none"},
	{"enable.ssl.certificate.verification", GC_OPTION_SERVER, GC_FORM_BOOLEAN},
	{"sasl.username", GC_OPTION_MAPPING},
	{"sasl.password", GC_OPTION_MAPPING | GC_OPTION_SECRET, GC_FORM_SECRET},
	{"password_file", GC_OPTION_MAPPING | GC_OPTION_FILE | GC_OPTION_OURS, GC_FORM_PATH},
	{"sasl.kerberos.service.name", GC_OPTION_SERVER, GC_FORM_SHELL},
	{"sasl.kerberos.principal", GC_OPTION_MAPPING, GC_FORM_SHELL},
	{"sasl.kerberos.keytab", GC_OPTION_MAPPING | GC_OPTION_FILE, GC_FORM_SHELL},
	{"client.id", GC_OPTION_SERVER},
	{"client.rack", GC_OPTION_SERVER},
	{"broker.address.family", GC_OPTION_SERVER, GC_FORM_WORD, 0, 0, "any, v4 or v6"},
	{"broker.address.ttl", GC_OPTION_SERVER, GC_FORM_NUMBER, 0, 86400000},
	{"socket.timeout.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, 10, 300000},
	{"socket.keepalive.enable", GC_OPTION_SERVER, GC_FORM_BOOLEAN},
	{"connections.max.idle.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, 0, 2147483647},
	{"reconnect.backoff.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, 0, 3600000},
	{"reconnect.backoff.max.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, 0, 3600000},
	{"topic.metadata.refresh.interval.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, -1, 3600000},
	{"metadata.max.age.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, 1, 86400000},
	{"receive.message.max.bytes", GC_OPTION_SERVER, GC_FORM_NUMBER, 1000, 2147483647},
	{"message.max.bytes", GC_OPTION_SERVER, GC_FORM_NUMBER, 1000, 1000000000},
	{"fetch.wait.max.ms", GC_OPTION_SERVER, GC_FORM_NUMBER, 0, 300000},
	{"fetch.min.bytes", GC_OPTION_SERVER, GC_FORM_NUMBER, 1, 100000000},
	{"fetch.message.max.bytes", GC_OPTION_SERVER, GC_FORM_NUMBER, 1, 1000000000},
	{"fetch.max.bytes", GC_OPTION_SERVER, GC_FORM_NUMBER, 0, 2147483135},
	{"isolation.level", GC_OPTION_SERVER, GC_FORM_WORD, 0, 0, "read_committed or read_uncommitted"},
	{"group.id", GC_OPTION_SERVER | GC_OPTION_OURS},	/* under which offsets are committed, for lag tools */
	{"directory", GC_OPTION_SERVER | GC_OPTION_FILE | GC_OPTION_OURS | GC_OPTION_KIND_FILE, GC_FORM_PATH},
};

const int	gc_noptions = lengthof(gc_options);

const GcOption *
gc_option_find(const char *name)
{
	for (int i = 0; i < gc_noptions; i++)
		if (strcmp(gc_options[i].name, name) == 0)
			return &gc_options[i];
	return NULL;
}

bool
gc_option_is(const char *value, const char *word)
{
	return pg_strcasecmp(value, word) == 0;
}

/* Is the value one of "one, two or three"? */
static bool
is_listed(const char *value, const char *words)
{
	size_t		len = strlen(value);

	while (*words)
	{
		size_t		word = strcspn(words, ", ");

		if (word == len && pg_strncasecmp(value, words, len) == 0 && strcmp(value, "or") != 0)
			return true;
		words += word;
		words += strspn(words, ", ");
	}
	return false;
}

static bool
is_number(const char *value, int64 min, int64 max)
{
	char	   *end;
	long long	number;

	errno = 0;
	number = strtoll(value, &end, 10);
	return errno == 0 && (isdigit((unsigned char) value[0]) || value[0] == '-') &&
		end != value && *end == '\0' && number >= min && number <= max;
}

/* Does every character stand in one line and be seen there? */
static bool
is_line(const char *value)
{
	for (; *value; value++)
		if ((unsigned char) *value < ' ' || *value == 0x7f)
			return false;
	return true;
}

bool
gc_option_check(const GcOption *option, const char *value, char *problem, size_t size)
{
	bool		right = *value != '\0';

	snprintf(problem, size, "must not be empty");
	if (!right)
		return false;
	switch (option->form)
	{
		case GC_FORM_BOOLEAN:
			right = gc_option_is(value, "true") || gc_option_is(value, "false");
			snprintf(problem, size, "must be true or false");
			break;
		case GC_FORM_NUMBER:
			right = is_number(value, option->min, option->max);
			snprintf(problem, size, "must be a number from %lld to %lld",
					 (long long) option->min, (long long) option->max);
			break;
		case GC_FORM_WORD:
			right = is_listed(value, option->words);
			snprintf(problem, size, "must be %s", option->words);
			break;
		case GC_FORM_PATH:
			right = value[0] == '/' && is_line(value);
			snprintf(problem, size, "must be an absolute path");
			break;
		case GC_FORM_PEM:
			right = strncmp(value, "-----BEGIN ", 11) == 0;
			snprintf(problem, size, "must be in PEM format, beginning with -----BEGIN");
			break;
		case GC_FORM_SHELL:
			right = value[0] != '-' && value[strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
													"._-/@")] == '\0' &&
				(!(option->flags & GC_OPTION_FILE) || value[0] == '/');
			snprintf(problem, size, "must be %s letters, digits and any of . _ - / @",
					 option->flags & GC_OPTION_FILE ? "an absolute path of" : "made of");
			break;
		case GC_FORM_TEXT:
		case GC_FORM_SECRET:
			right = is_line(value);
			snprintf(problem, size, "must be one line without control characters");
			break;
	}
	return right;
}
