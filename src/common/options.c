/*
 * options.c: the list. Names are librdkafka's own. What runs code, loads libraries, reads files
 * without being told to, logs secrets or lives in the library's own test suite is
 * not here (plugin.library.paths, ssl.engine.location, ssl.providers, sasl.kerberos.kinit.cmd,
 * offset.store.*, debug, log_level, test.mock.*, callbacks), nor are aliases
 * (metadata.broker.list), nor what the reader decides itself (group.id, check.crcs, …).
 */
#include "common.h"
#include "options.h"

const GcOption gc_options[] = {
	{"bootstrap.servers", GC_OPTION_SERVER},
	{"security.protocol", GC_OPTION_SERVER},
	{"sasl.mechanism", GC_OPTION_SERVER},
	{"ssl.ca.location", GC_OPTION_SERVER | GC_OPTION_FILE},
	{"ssl.ca.pem", GC_OPTION_SERVER},
	{"ssl.certificate.location", GC_OPTION_MAPPING | GC_OPTION_FILE},
	{"ssl.certificate.pem", GC_OPTION_MAPPING},
	{"ssl.key.location", GC_OPTION_MAPPING | GC_OPTION_FILE},
	{"ssl.key.pem", GC_OPTION_MAPPING | GC_OPTION_SECRET},
	{"ssl.key.password", GC_OPTION_MAPPING | GC_OPTION_SECRET},
	{"ssl.crl.location", GC_OPTION_SERVER | GC_OPTION_FILE},
	{"ssl.cipher.suites", GC_OPTION_SERVER},
	{"ssl.endpoint.identification.algorithm", GC_OPTION_SERVER},
	{"enable.ssl.certificate.verification", GC_OPTION_SERVER},
	{"sasl.username", GC_OPTION_MAPPING},
	{"sasl.password", GC_OPTION_MAPPING | GC_OPTION_SECRET},
	{"password_file", GC_OPTION_MAPPING | GC_OPTION_FILE | GC_OPTION_OURS},
	{"sasl.kerberos.service.name", GC_OPTION_SERVER},
	{"sasl.kerberos.principal", GC_OPTION_MAPPING},
	{"sasl.kerberos.keytab", GC_OPTION_MAPPING | GC_OPTION_FILE},
	{"client.id", GC_OPTION_SERVER},
	{"client.rack", GC_OPTION_SERVER},
	{"broker.address.family", GC_OPTION_SERVER},
	{"broker.address.ttl", GC_OPTION_SERVER},
	{"socket.timeout.ms", GC_OPTION_SERVER},
	{"socket.keepalive.enable", GC_OPTION_SERVER},
	{"connections.max.idle.ms", GC_OPTION_SERVER},
	{"reconnect.backoff.ms", GC_OPTION_SERVER},
	{"reconnect.backoff.max.ms", GC_OPTION_SERVER},
	{"topic.metadata.refresh.interval.ms", GC_OPTION_SERVER},
	{"metadata.max.age.ms", GC_OPTION_SERVER},
	{"receive.message.max.bytes", GC_OPTION_SERVER},
	{"message.max.bytes", GC_OPTION_SERVER},
	{"fetch.wait.max.ms", GC_OPTION_SERVER},
	{"fetch.min.bytes", GC_OPTION_SERVER},
	{"fetch.message.max.bytes", GC_OPTION_SERVER},
	{"fetch.max.bytes", GC_OPTION_SERVER},
	{"isolation.level", GC_OPTION_SERVER},
	{"group.id", GC_OPTION_SERVER | GC_OPTION_OURS},	/* under which offsets are committed, for lag tools */
	{"directory", GC_OPTION_SERVER | GC_OPTION_FILE | GC_OPTION_OURS | GC_OPTION_KIND_FILE},
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
