# A server with changelogs that read a Kafka: what their tests have in common.
#
#	use Changelogs;
#	my $kafka = Kafka->start;
#	my $node = changelogs_node($kafka);			# a server, role app, its schema shop, server events
#	app(q{SELECT ...});							# as the role app
#	becomes(q{SELECT ...}, 'answer', 'name');	# within 30 seconds
package Changelogs;

use strict;
use warnings;

use Exporter qw(import);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(changelogs_node app app_fails becomes happens ingest_pid reader_pid sql);
my $node;

# A broker, or a directory of files. Further lines of postgresql.conf may follow.
sub changelogs_node
{
	my ($source, @conf) = @_;
	my $server = ref $source ? sprintf(q{CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '%s')}, $source->bootstrap) :
		qq{CREATE SERVER events TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$source')};
	$node = PostgreSQL::Test::Cluster->new('main');
	$node->init;
	$node->append_conf('postgresql.conf', join "\n", q{shared_preload_libraries = 'guest_context'},
		'restart_after_crash = on', 'max_worker_processes = 16', 'autovacuum = off', @conf, '');
	$node->start;
	$node->safe_psql('postgres', qq{
		CREATE EXTENSION guest_context;
		CREATE ROLE app LOGIN;
		GRANT CREATE ON DATABASE postgres TO app;
		$server;
		GRANT USAGE ON FOREIGN SERVER events TO app;
		SET ROLE app;
		CREATE SCHEMA shop;
	});
	return $node;
}

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql) }
sub app { my ($sql) = @_; return $node->safe_psql('postgres', "SET ROLE app; $sql") }

# What psql complains of.
sub app_fails
{
	my ($sql) = @_;
	my ($ret, $out, $err) = $node->psql('postgres', "SET ROLE app; $sql");
	return $ret == 0 ? 'it succeeds' : $err;
}

# Waits until a query gives this; tells the last answer when it never does. Returns the seconds.
sub becomes
{
	my ($query, $expected, $name, $seconds) = @_;
	my $begun = time;
	my $until = $begun + ($seconds // 30);
	my $got;
	do { $got = eval { $node->safe_psql('postgres', $query) } // "error: $@" } until $got eq $expected || time > $until || !sleep 0.05;
	is($got, $expected, $name) or diag(eval { $node->safe_psql('postgres', 'SELECT * FROM guest_context.status') } // '');
	return time - $begun;
}

# The same, with a pattern.
sub happens
{
	my ($query, $pattern, $name, $seconds) = @_;
	my $begun = time;
	my $until = $begun + ($seconds // 30);
	my $got;
	do { $got = eval { $node->safe_psql('postgres', $query) } // "error: $@" } until $got =~ $pattern || time > $until || !sleep 0.05;
	like($got, $pattern, $name);
	return time - $begun;
}

sub ingest_pid { return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'guest_context ingest' LIMIT 1}) }

sub reader_pid
{
	my $pid = ingest_pid();
	return unless $pid;
	my ($reader) = grep { /^\d+$/ } split /\n/, qx(pgrep -P $pid -f guest_context_reader);
	return $reader;
}

1;
