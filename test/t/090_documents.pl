# The documents tell the truth: every SQL block of README.md and docs/*.md is run,
# in order, and what it prints is compared with what the document prints.
#
# A block ```sql is run as the role shop_owner, in a database of the document's own.
# A block ``` without a language right after it is what it must print, errors
# included; without one it must not raise an error. Comments before a block, which no
# reader sees, change that:
#
#	<!-- as ROLE -->	run as somebody else (postgres is the superuser)
#	<!-- not run -->	needs what a test does not have, or prints what changes
#	<!-- append to FILE -->	not SQL: the block's lines go to the end of that file
#
# Journal files are below /var/lib/journal there; here that is a directory of the test, in
# statements, in what they print, and in FILE.
#
# And docs/reference.md is complete: it has every function with its arguments, every
# view with its columns, every setting.
#
# DOCUMENTS_OUT=directory writes the documents there with what was really printed.
use strict;
use warnings;

use File::Basename;
use File::Path qw(make_path);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = dirname(dirname(dirname(__FILE__)));
$ENV{PGTZ} = 'UTC';

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
$node->append_conf('postgresql.conf', "max_worker_processes = 16\n");
$node->start;

# What /var/lib/journal stands for, another one for each document.
my $journal;

sub append_to
{
	my ($file, @lines) = @_;
	$file =~ s{^/var/lib/journal(?=/)}{$journal} or die "$file is not below /var/lib/journal";
	make_path(dirname($file));
	open my $fh, '>>:encoding(UTF-8)', $file or die "cannot write $file: $!";
	print $fh map { "$_\n" } @lines;
	close $fh or die "cannot write $file: $!";
}

sub slurp_utf8
{
	my ($file) = @_;
	open my $fh, '<:encoding(UTF-8)', $file or die "cannot read $file: $!";
	local $/;
	return <$fh>;
}

# What psql prints, errors in their places, without blanks at the ends of lines.
sub run_block
{
	my ($database, $role, $sql) = @_;
	my $out = '';
	utf8::encode($sql);
	$sql =~ s{/var/lib/journal\b}{$journal}g;
	IPC::Run::run([ 'psql', '-X', '-q', '-h', $node->host, '-p', $node->port, '-U', $role, '-d', $database ],
		'<', \$sql, '>&', \$out);
	utf8::decode($out);
	$out =~ s{\Q$journal\E}{/var/lib/journal}g;
	$out =~ s/[ \t]+$//mg;
	$out =~ s/\s+\z/\n/;
	return $out;
}

sub check_document
{
	my ($name, $database, $owner) = @_;
	my @lines = split /\n/, slurp_utf8("$root/$name"), -1;
	my ($role, $run, $file, @out) = ('shop_owner', 1);
	my $blocks = 0;
	$journal = PostgreSQL::Test::Utils::tempdir();
	chmod 0755, $journal;

	$node->safe_psql('postgres', "CREATE DATABASE $database OWNER $owner");
	for (my $i = 0; $i < @lines; $i++)
	{
		my $line = $lines[$i];
		push @out, $line;
		if ($line =~ /^<!-- as (\w+) -->$/) { $role = $1 }
		elsif ($line eq '<!-- not run -->') { $run = 0 }
		elsif ($line =~ /^<!-- append to (\S+) -->$/) { $file = $1 }
		next unless $line =~ /^```(\w*)$/;

		# the block
		my ($language, $from) = ($1, $i + 1);
		while (++$i < @lines)
		{
			push @out, $lines[$i];
			last if $lines[$i] eq '```';
		}
		if (defined $file)
		{
			append_to($file, @lines[ $from .. $i - 1 ]);
			undef $file;
			next;
		}
		my $sql = join "\n", @lines[ $from .. $i - 1 ], '';
		next unless $language eq 'sql';
		my ($who, $go) = ($role, $run);
		($role, $run) = ('shop_owner', 1);
		next unless $go;

		# what it should print
		my $expected;
		if ($i + 2 <= $#lines && $lines[ $i + 1 ] eq '' && $lines[ $i + 2 ] eq '```')
		{
			my $end = $i + 3;
			$end++ until $lines[$end] eq '```';
			$expected = join "\n", @lines[ $i + 3 .. $end - 1 ], '';
			$i = $end;
		}
		my $got = run_block($database, $who, $sql);
		$blocks++;
		if (defined $expected)
		{
			is($got, $expected, "$name:$from prints what the document says");
			push @out, '', '```', split(/\n/, $got), '```';
		}
		else
		{
			unlike($got, qr/^(?:ERROR|FATAL|PANIC|server closed)/m, "$name:$from runs");
		}
	}
	cmp_ok($blocks, '>', 0, "$name has SQL") if $name eq 'README.md';
	if ($ENV{DOCUMENTS_OUT})
	{
		open my $fh, '>:encoding(UTF-8)', "$ENV{DOCUMENTS_OUT}/" . basename($name) or die $!;
		print $fh join "\n", @out;
	}
}

# The README begins with nothing but a database; its role is then there for the others.
$node->safe_psql('postgres', 'CREATE ROLE analyst LOGIN');
check_document('README.md', 'shop', 'postgres');
my $number = 0;
check_document($_, 'document_' . ++$number, 'shop_owner') for map { "docs/" . basename($_) } sort glob "$root/docs/*.md";

# The reference is complete.
my $reference = slurp_utf8("$root/docs/reference.md");

# The names of `words` that the section of that title lacks.
sub missing
{
	my ($title, @words) = @_;
	my ($section) = $reference =~ /^(### \Q$title\E\n.*?)(?=^##|\z)/ms;
	return "all of it" unless defined $section;
	return join ', ', grep { $section !~ /\b\Q$_\E\b/ } @words;
}

sub rows { return split /\n/, $node->safe_psql('shop', $_[0]) }

for (
	rows(
		q{SELECT proname, pg_get_function_arguments(oid) FROM pg_proc
		  WHERE pronamespace = 'guest_context'::regnamespace AND proname !~ '^_' ORDER BY 1}))
{
	my ($function, $arguments) = split /\|/, $_, 2;
	is(missing($function, map { /^(?:OUT )?(\w+)/ } split /, /, $arguments),
		'', "the reference has $function($arguments)");
}
for my $view (
	rows(
		q{SELECT relname FROM pg_class
		  WHERE relnamespace = 'guest_context'::regnamespace AND relkind = 'v' AND relname !~ '^_' ORDER BY 1}))
{
	my @columns = rows(
		qq{SELECT attname FROM pg_attribute WHERE attrelid = 'guest_context.$view'::regclass AND attnum > 0});
	is(missing("guest_context.$view", @columns), '', "the reference has the view $view with its columns");
}
for my $setting (
	rows(q{LOAD 'guest_context'; SELECT name FROM pg_settings WHERE name ~ '^guest_context' ORDER BY 1}))
{
	like($reference, qr/^\| `\Q$setting\E` \|/m, "the reference has the setting $setting");
}

$node->stop;
done_testing();
