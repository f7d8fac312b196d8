-- Options of servers and user mappings: what is refused, to whom, and what is never told.
\set SHOW_CONTEXT never
CREATE ROLE regress_conn_plain LOGIN;
CREATE ROLE regress_conn_maker LOGIN;
CREATE ROLE regress_conn_files LOGIN IN ROLE pg_read_server_files;
CREATE ROLE regress_conn_monitor LOGIN IN ROLE pg_monitor;

-- X12: nobody may make a server until somebody says so
SET SESSION AUTHORIZATION regress_conn_plain;
CREATE SERVER scan FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost:22');
RESET SESSION AUTHORIZATION;
GRANT USAGE ON FOREIGN DATA WRAPPER guest_context TO regress_conn_maker, regress_conn_files;
SET SESSION AUTHORIZATION regress_conn_maker;
CREATE SERVER events FOREIGN DATA WRAPPER guest_context
	OPTIONS ("bootstrap.servers" 'localhost:9092', "security.protocol" 'sasl_ssl', "sasl.mechanism" 'PLAIN');
GRANT USAGE ON FOREIGN SERVER events TO regress_conn_plain;

-- X5: exact names of a list, the nearest one in the hint
ALTER SERVER events OPTIONS (ADD "bootstrap.server" 'localhost:9092');
ALTER SERVER events OPTIONS (ADD "Client.Id" 'x');
ALTER SERVER events OPTIONS (ADD "metadata.broker.list" 'localhost:9092');
ALTER SERVER events OPTIONS (ADD "enable.auto.commit " 'false');
ALTER SERVER events OPTIONS (ADD brokers 'localhost:9092');
ALTER SERVER events OPTIONS (ADD something 'else');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (username 'svc');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("sasl.pasword" 'hush');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (password 'hush');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("something quite different" 'hush');
RESET SESSION AUTHORIZATION;
ALTER FOREIGN DATA WRAPPER guest_context OPTIONS (ADD "client.id" 'x');
-- X6, X7, X9: what runs code, loads code, writes files or floods the log: not for a superuser either
DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY '{plugin.library.paths,ssl.engine.location,ssl.engine.id,ssl.providers,sasl.kerberos.kinit.cmd,offset.store.path,offset.store.method,debug,log_level,test.mock.num.brokers,interceptors,statistics.interval.ms,enable.auto.commit,check.crcs,sasl.oauthbearer.config,sasl.oauthbearer.token.endpoint.url,enable.sasl.oauthbearer.unsecure.jwt,ssl.keystore.location,sasl.mechanisms}'::text[]
	LOOP
		BEGIN
			EXECUTE format('ALTER SERVER events OPTIONS (ADD %I %L)', name, 'x');
			RAISE 'option % was taken', name;
		EXCEPTION WHEN fdw_invalid_option_name THEN NULL;
		END;
	END LOOP;
END $$;

-- X1: each in its place
SET SESSION AUTHORIZATION regress_conn_maker;
ALTER SERVER events OPTIONS (ADD "sasl.password" 'hush');
ALTER SERVER events OPTIONS (ADD "ssl.key.pem" '-----BEGIN hush');
ALTER SERVER events OPTIONS (ADD "sasl.username" 'svc');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("bootstrap.servers" 'localhost:9092');

-- values: the form, where that is cheap; never the value
ALTER SERVER events OPTIONS (SET "security.protocol" 'TLS');
ALTER SERVER events OPTIONS (SET "sasl.mechanism" 'OAUTHBEARER');
ALTER SERVER events OPTIONS (SET "sasl.mechanism" 'or');
ALTER SERVER events OPTIONS (ADD "socket.keepalive.enable" 'on');
ALTER SERVER events OPTIONS (ADD "socket.timeout.ms" '10s');
ALTER SERVER events OPTIONS (ADD "socket.timeout.ms" '9');
ALTER SERVER events OPTIONS (ADD "socket.timeout.ms" '99999999999999999999');
ALTER SERVER events OPTIONS (ADD "socket.timeout.ms" ' 100');
ALTER SERVER events OPTIONS (ADD "client.id" '');
ALTER SERVER events OPTIONS (ADD "client.id" E'two\nlines');
ALTER SERVER events OPTIONS (ADD "ssl.ca.pem" 'hush');
ALTER SERVER events OPTIONS (ADD "topic.metadata.refresh.interval.ms" '-1', ADD "socket.keepalive.enable" 'TRUE', ADD "isolation.level" 'read_committed');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("ssl.key.pem" 'hush');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("sasl.password" E'hush\nhush');
-- the library puts these into a command of a shell as they are
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("sasl.kerberos.principal" 'x; touch /tmp/hush');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("sasl.kerberos.principal" '$(touch /tmp/hush)');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("sasl.kerberos.principal" '-S hush');
ALTER SERVER events OPTIONS (ADD "sasl.kerberos.service.name" '`hush`');
-- what contradicts itself
CREATE SERVER wrong FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost', "sasl.mechanism" 'PLAIN');
CREATE SERVER wrong FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost', directory '/tmp');

-- X11: who is no superuser talks to verified brokers, and sends no passwords in clear
ALTER SERVER events OPTIONS (ADD "enable.ssl.certificate.verification" 'False');
ALTER SERVER events OPTIONS (ADD "ssl.endpoint.identification.algorithm" 'NONE');
ALTER SERVER events OPTIONS (SET "security.protocol" 'Sasl_Plaintext');
ALTER SERVER events OPTIONS (ADD "ssl.endpoint.identification.algorithm" 'https', ADD "enable.ssl.certificate.verification" 'true');
RESET SESSION AUTHORIZATION;
ALTER SERVER events OPTIONS (SET "security.protocol" 'SASL_PLAINTEXT', SET "ssl.endpoint.identification.algorithm" 'none', SET "enable.ssl.certificate.verification" 'false');
SET SESSION AUTHORIZATION regress_conn_maker;
ALTER SERVER events OPTIONS (ADD "client.id" 'x');
ALTER SERVER events OPTIONS (SET "security.protocol" 'SASL_SSL', DROP "ssl.endpoint.identification.algorithm", DROP "enable.ssl.certificate.verification");

-- X8: files of the server
ALTER SERVER events OPTIONS (ADD "ssl.ca.location" '/etc/ssl/certs');
ALTER SERVER events OPTIONS (ADD "ssl.crl.location" '/etc/passwd');
CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '/tmp');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("ssl.key.location" '/etc/passwd');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (password_file '/etc/passwd');
CREATE USER MAPPING FOR CURRENT_USER SERVER events OPTIONS ("sasl.kerberos.keytab" '/etc/krb5.keytab');
SET SESSION AUTHORIZATION regress_conn_files;
CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory 'relative');
CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '/nowhere');
CREATE SERVER strange TYPE 'fiel' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '/nowhere');
CREATE SERVER typeless FOREIGN DATA WRAPPER guest_context OPTIONS (directory '/nowhere');
CREATE SERVER nothing TYPE 'file' FOREIGN DATA WRAPPER guest_context;
CREATE SERVER brokerless TYPE 'kafka' FOREIGN DATA WRAPPER guest_context;
CREATE SERVER kafka_file TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost');
CREATE SERVER files FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost:1', "security.protocol" 'SASL_SSL', "sasl.mechanism" 'plain');
CREATE USER MAPPING FOR CURRENT_USER SERVER files OPTIONS ("sasl.username" 'svc', "sasl.password" 'hush', password_file '/nowhere');
CREATE USER MAPPING FOR CURRENT_USER SERVER files OPTIONS ("sasl.username" 'svc', password_file '/nowhere');

-- at use: the server
SELECT * FROM guest_context.check_server('nowhere');
SELECT * FROM guest_context.check_server('strange');
SELECT * FROM guest_context.check_server('typeless');
SELECT * FROM guest_context.check_server('nothing');
SELECT * FROM guest_context.check_server('brokerless');
SELECT * FROM guest_context.check_server('kafka_file');
RESET SESSION AUTHORIZATION;
CREATE FOREIGN DATA WRAPPER regress_conn_other;
CREATE SERVER other FOREIGN DATA WRAPPER regress_conn_other;
SELECT * FROM guest_context.check_server('other');
-- options that no validator has seen
SET client_min_messages = error;
ALTER FOREIGN DATA WRAPPER guest_context NO VALIDATOR;
CREATE SERVER unseen FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost', "plugin.library.paths" '/tmp/x.so');
CREATE SERVER unseen_map FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'localhost');
CREATE USER MAPPING FOR CURRENT_USER SERVER unseen_map OPTIONS ("sasl.kerberos.kinit.cmd" 'touch /tmp/hush');
ALTER FOREIGN DATA WRAPPER guest_context VALIDATOR guest_context._options_validator;
RESET client_min_messages;
SELECT * FROM guest_context.check_server('unseen');
SELECT * FROM guest_context.check_server('unseen_map');
DROP SERVER unseen;
DROP USER MAPPING FOR CURRENT_USER SERVER unseen_map;
DROP SERVER unseen_map;
-- the password file
SET SESSION AUTHORIZATION regress_conn_files;
SELECT * FROM guest_context.check_server('files');
ALTER USER MAPPING FOR CURRENT_USER SERVER files OPTIONS (SET password_file '/dev/null');
SELECT * FROM guest_context.check_server('files');
ALTER USER MAPPING FOR CURRENT_USER SERVER files OPTIONS (SET password_file '/');
SELECT * FROM guest_context.check_server('files');
-- rights on the server
SELECT * FROM guest_context.check_server('events');
SELECT * FROM guest_context.topics('events');
SELECT * FROM guest_context.peek('events', 'orders');
-- the mapping: one's own, and complete (X2)
SET SESSION AUTHORIZATION regress_conn_plain;
SELECT * FROM guest_context.check_server('events');
SET SESSION AUTHORIZATION regress_conn_maker;
CREATE USER MAPPING FOR PUBLIC SERVER events OPTIONS ("sasl.username" 'svc', "sasl.password" 'hush');
SET SESSION AUTHORIZATION regress_conn_plain;
SELECT * FROM guest_context.check_server('events');
CREATE USER MAPPING FOR CURRENT_USER SERVER events;
SELECT * FROM guest_context.check_server('events');
ALTER USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (ADD "sasl.username" 'svc');
SELECT * FROM guest_context.check_server('events');
ALTER USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (ADD "sasl.password" 'hush');
-- a Kerberos ticket of the server's own user is nobody's to borrow
SET SESSION AUTHORIZATION regress_conn_maker;
ALTER SERVER events OPTIONS (SET "sasl.mechanism" 'GSSAPI');
SET SESSION AUTHORIZATION regress_conn_plain;
SELECT * FROM guest_context.check_server('events');
ALTER USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (ADD "sasl.kerberos.principal" 'svc/host@REALM.EXAMPLE');
SELECT * FROM guest_context.check_server('events');
ALTER USER MAPPING FOR CURRENT_USER SERVER events OPTIONS (DROP "sasl.kerberos.principal");
SET SESSION AUTHORIZATION regress_conn_maker;
ALTER SERVER events OPTIONS (SET "sasl.mechanism" 'PLAIN');

-- arguments
SET SESSION AUTHORIZATION regress_conn_plain;
SELECT * FROM guest_context.peek('events', '../../etc');
SELECT * FROM guest_context.peek('events', '..');
SELECT * FROM guest_context.peek('events', '');
SELECT * FROM guest_context.peek('events', E'a\nb');
SELECT * FROM guest_context.peek('events', repeat('x', 250));
SELECT * FROM guest_context.peek('events', 'orders', 0);
SELECT * FROM guest_context.check_server('events', '0');
SELECT * FROM guest_context.check_server('events', '1 month');

-- X1: the secret is its owner's, and who monitors does not see it
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'events' ORDER BY usename COLLATE "C";
SET SESSION AUTHORIZATION regress_conn_monitor;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'events' ORDER BY usename COLLATE "C";
SELECT count(*) FROM pg_user_mapping;

RESET SESSION AUTHORIZATION;
SET client_min_messages = error;
DROP SERVER events, journal, strange, typeless, nothing, brokerless, kafka_file, files, other CASCADE;
DROP FOREIGN DATA WRAPPER regress_conn_other;
REVOKE USAGE ON FOREIGN DATA WRAPPER guest_context FROM regress_conn_maker, regress_conn_files;
DROP ROLE regress_conn_plain, regress_conn_maker, regress_conn_files, regress_conn_monitor;
