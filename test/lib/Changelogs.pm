# A server with changelogs that read a Kafka: what their tests have in common.
#
#	use Changelogs;
#	my $kafka = Kafka->start;
#	my $node = changelogs_node($kafka);			# a server, role app, its schema shop, server events
#	app(q{SELECT ...});							# as the role app
#	becomes(q{SELECT ...}, 'answer', 'name');	# within 30 seconds
#
# With `use Changelogs qw(:DEFAULT :items)` and items_entity(), an entity shop.items (ref, n, modified_at), which many changelogs may feed:
#
#	changelog('topic');							# shop.items/topic, further arguments of create_changelog may follow
#	$kafka->produce('topic', [ item('a', 1), at(2, 'b', 1) ]);	# each newer than the one before; in a partition
#	shows('a', 1, 'name');
#	becomes(status('topic'), 'running', 'name');	# state and message
#
#	on_node($other);							# all this at another server from now on
package Changelogs;

use strict;
use warnings;

use Exporter qw(import);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(changelogs_node app app_fails becomes happens ingest_pid on_node reader_pid sql try_app);
our %EXPORT_TAGS = (items => [ qw(at changelog item items_entity shows status) ]);
Exporter::export_ok_tags('items');
my $node;
my $stamp = 0;

# A broker, or a directory of files. Further lines of postgresql.conf may follow, before them another installation: install_path => ...
sub changelogs_node
{
	my ($source, @conf) = @_;
	my @where = @conf && $conf[0] eq 'install_path' ? splice(@conf, 0, 2) : ();
	my $server = ref $source ? sprintf(q{CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '%s')}, $source->bootstrap) :
		qq{CREATE SERVER events TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$source')};
	$node = PostgreSQL::Test::Cluster->new('main', @where);
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

sub on_node { ($node) = @_; return }
sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql) }
sub app { my ($sql) = @_; return $node->safe_psql('postgres', "SET ROLE app; $sql") }

# Once, and undef when it fails: the session may be the one that dies, or go with the one that does.
sub try_app { my ($sql) = @_; return eval { app($sql) } }

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

sub items_entity
{
	return app(q{
		CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
		SELECT guest_context.create_entity('shop.items', 'shop.item_shape')});
}

sub item
{
	my ($ref, $n) = @_;
	$stamp++;
	return [ $ref, sprintf '{"ref":"%s","n":%d,"modifiedAt":"2024-03-24T12:%02d:%02dZ"}', $ref, $n, $stamp / 60 % 60, $stamp % 60 ];
}

sub at { my ($partition, $ref, $n) = @_; return [ @{ item($ref, $n) }, undef, $partition ] }
sub status { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.items/$topic'" }
sub changelog { my ($topic, $more) = @_; return app("SELECT guest_context.create_changelog('shop.items', 'events', '$topic'" . ($more ? ", $more" : '') . ')') }
sub shows { my ($ref, $n, $name, $seconds) = @_; return becomes("SELECT n FROM shop.items WHERE ref = '$ref'", $n, $name, $seconds) }

sub ingest_pid { return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'guest_context ingest' LIMIT 1}) }

sub reader_pid
{
	my $pid = ingest_pid();
	return unless $pid;
	my ($reader) = grep { /^\d+$/ } split /\n/, qx(pgrep -P $pid -f guest_context_reader);
	return $reader;
}

1;
