# X29, promise 2: the reader program talks to the network, so a worker believes nothing of what it says: no length, no
# number, no text. Instead of it runs test/hostile_reader.
use strict;
use warnings;

use Changelogs;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

# A server finds its files relative to its own program: a copy of the programs and links to the rest are another installation.
my ($bin, $lib, $share) = map { my $path = qx(pg_config --$_); chomp $path; $path } qw(bindir pkglibdir sharedir);
my $copy = PostgreSQL::Test::Utils::tempdir();
system('mkdir', '-p', "$copy$lib", dirname("$copy$share"), dirname("$copy$bin")) == 0 && system('cp', '-a', $bin, "$copy$bin") == 0 or die;
symlink $share, "$copy$share" or die;
symlink $_, "$copy$lib/" . basename($_) for grep { basename($_) !~ /^guest_context_reader$|^bin$/ } glob "$lib/*";
system('cp', dirname(dirname(__FILE__)) . '/hostile_reader', "$copy$lib/guest_context_reader") == 0 or die;

my $node = changelogs_node(PostgreSQL::Test::Utils::tempdir(), install_path => dirname("$copy$bin"));
app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, t text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape')});
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'};

# A changelog of a topic, and what becomes of it.
sub meets
{
	my ($topic, $query, $pattern, $name) = @_;
	app("SELECT guest_context.create_changelog('shop.items', 'events', '$topic')");
	happens($query, $pattern, "$topic: $name", 10);
	app("SELECT guest_context.drop_changelog('shop.items/$topic')");
	return becomes($workers, '0', "$topic: the worker has ended", 10);
}
my $status = q{SELECT concat_ws(' ', state, message) FROM guest_context.status};

meets($_, $status, qr/^waiting the reader has sent a frame of type "N" that cannot be read/, 'an answer that is shorter than it says')
  for qw(rows_wrap rows_many columns_many);
meets($_, $status, qr/^waiting the reader has sent a frame of type "R" that cannot be read/, 'a record that cannot be')
  for qw(offset_last time_first version_first not_utf8 nul columns_most);
meets('position_negative', $status, qr/^waiting the reader has sent a frame of type "P" that cannot be read/, 'a position that cannot be');
meets('far_ends', q{SELECT concat_ws(' ', state, lag) FROM guest_context.status}, qr/^catching_up 9223372036854775807$/, 'ends as far as can be do not break the status of all');
meets('long_text', $status, qr/^waiting no broker can be reached: \? %sz{300,400}\nSELECT [^\n]*$/, 'what it says of the server is in one line, short and text');
meets('bad_text', q{SELECT concat_ws(' ', sqlstate, message, detail) FROM guest_context.dead_letter}, qr/^22023 \? of it (?:\xc3\xa4){50,}$/,
	'what it says of a record is text too');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'unassigned', start => '2024-01-01 00:00:00+00'),
	guest_context.create_changelog('shop.items', 'events', 'unassigned', name => 'second', start => '2024-01-01 00:00:00+00')});
becomes(q{SELECT string_agg(changelog || ' ' || next_offset, ', ' ORDER BY changelog) FROM guest_context.offsets('shop.items')}, 'second 0, shop.items/unassigned 0', 'unassigned: nothing of a partition that has not been assigned yet counts');
app(q{SELECT guest_context.drop_changelog('shop.items/unassigned'), guest_context.drop_changelog('second')});
is(sql('SELECT count(*) FROM shop.items'), '0', 'nothing of all that is in the entity');
meets('good', q{SELECT t FROM shop.items WHERE ref = 'good'}, qr/^\xc3\xa4$/, 'what it may say is read');

# wait_for_head asks a reader of its own.
sql(q{GRANT SELECT ON shop.items TO app});
for my $topic (qw(rows_many rows_wrap))
{
	app("SELECT guest_context.create_changelog('shop.items', 'events', '$topic', name => 'head')");
	like(app_fails(q{SELECT guest_context.wait_for_head('shop.items', '5 s')}), qr/the reader program sent an answer that is too short/, "$topic: so does wait_for_head");
	app(q{SELECT guest_context.drop_changelog('head')});
}
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal|\] XX|z{1000}/, 'nothing has crashed, and the log is short');
$node->stop;
done_testing();
