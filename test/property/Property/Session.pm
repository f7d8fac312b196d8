# One psql, kept open: scripts go in, their output comes back.
#
# A script is written to a file and read with \i, so that COPY data and
# statements are one text, and the text of a failed step can be looked at.
# An error in a script is an exception that names the first one.
package Property::Session;

use strict;
use warnings;

use IPC::Run ();
use Time::HiRes qw(time);

my $count = 0;

# new(dir => where scripts go, db => ..., user => ..., timeout => seconds a script may take)
sub new
{
	my ($class, %arg) = @_;
	my $self = bless { timeout => 120, %arg, name => 's' . $count++ . ".$$", marks => 0, in => '', out => '' }, $class;
	$self->connect;
	return $self;
}

sub connect
{
	my ($self) = @_;
	$self->{timer} = IPC::Run::timeout($self->{timeout});
	$self->{psql} = IPC::Run::start(
		[ 'psql', '-X', '-q', '-A', '-t', '-v', 'VERBOSITY=verbose', '-d', $self->{db}, '-U', $self->{user} ],
		'<', \$self->{in}, '>', \$self->{out}, '2>&1', $self->{timer});
	$self->run("SET client_min_messages = error; SET jit = off;\n" . ($self->{settings} // ''));
	return;
}

# Runs a script; its output, or an exception with the first error in it.
sub run
{
	my ($self, $sql) = @_;
	my $out = $self->try($sql);
	if ($out =~ /^psql:\S+:(\d+): ((?:ERROR|FATAL|PANIC): .*?)(?=^psql:|\z)/ms)
	{
		my ($line, $error) = ($1, $2);
		my @lines = split /\n/, $sql;
		die "$error  $self->{user}, line $line: " . substr($lines[ $line - 1 ], 0, 1000) . "\n";
	}
	die "psql lost its connection: " . substr($out, -500) . "\n" if $out =~ /^psql:.*(?:server closed|connection to server)/m;
	return $out;
}

# The same with errors left in the output.
sub try
{
	my ($self, $sql) = @_;
	my $file = "$self->{dir}/$self->{name}.sql";
	my $mark = sprintf 'mark %d of %s', ++$self->{marks}, $self->{name};

	open(my $f, '>:utf8', $file) or die "$file: $!";
	print $f $sql, "\n";
	close($f) or die "$file: $!";
	$self->{out} = '';
	$self->{in} = "\\i $file\n\\echo $mark\n";
	$self->{timer}->start($self->{timeout});
	IPC::Run::pump($self->{psql}) until $self->{out} =~ /^\Q$mark\E\n\z/m || !IPC::Run::pumpable($self->{psql});
	$self->{timer}->reset;
	die "psql ended: " . substr($self->{out}, -500) . "\n" unless $self->{out} =~ s/^\Q$mark\E\n\z//m;
	return $self->{out};
}

# Rows of a query as array references. Values must hold neither '|' nor a newline.
sub rows
{
	my ($self, $sql) = @_;
	return map { [ split /\|/, $_, -1 ] } split /\n/, $self->run($sql);
}

sub value
{
	my ($self, $sql) = @_;
	my $out = $self->run($sql);
	chomp $out;
	return $out;
}

sub close
{
	my ($self) = @_;
	return unless $self->{psql};
	eval { $self->{in} = "\\q\n"; $self->{timer}->start(10); IPC::Run::finish($self->{psql}) };
	IPC::Run::kill_kill($self->{psql}, grace => 2) if $@;
	delete $self->{psql};
	return;
}

1;
